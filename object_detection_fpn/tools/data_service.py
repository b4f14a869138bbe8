"""`odfpn data-service`: a dispatcher or a worker of the data service that prepares training batches."""

from __future__ import annotations

import argparse

from object_detection_fpn.tools.command import UsageError, check_service_address, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("part", choices=("dispatcher", "worker"), help="one dispatcher, any number of workers")
    parser.add_argument("--port", type=int, help="port to listen at; a worker takes any free one by default")
    parser.add_argument("--dispatcher", metavar="HOST:PORT", help="address of the dispatcher, for a worker")
    parser.add_argument(
        "--host", help="name under which trainers reach a worker's machine; the machine's own by default"
    )


def run(arguments: argparse.Namespace) -> int:
    from object_detection_fpn.data.source import service

    try:
        if arguments.part == "dispatcher":
            if arguments.port is None or arguments.dispatcher or arguments.host:
                raise UsageError("A dispatcher takes --port, and nothing else.")
            return service.run_dispatcher(port=arguments.port, say=say)
        if not arguments.dispatcher:
            raise UsageError("A worker needs --dispatcher HOST:PORT.")
        check_service_address(arguments.dispatcher)
        return service.run_worker(
            dispatcher=arguments.dispatcher, port=arguments.port or 0, host=arguments.host, say=say
        )
    except TimeoutError:  # an OSError too
        raise
    except OSError as error:
        raise UsageError(str(error)) from error
