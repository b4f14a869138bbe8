"""`odfpn report`, what a detector gets right and wrong as one page, and `odfpn compare`, two detectors side by side."""
