"""`python -m object_detection_fpn.cli` is `odfpn`."""

import sys

from object_detection_fpn.cli.main import main

sys.exit(main())
