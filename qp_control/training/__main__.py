"""`python -m qp_control.training TASK [--options]`: the same as `qp-control train`, alone or under torchrun."""

import sys

from qp_control.cli import main

sys.exit(main(["train", *sys.argv[1:]]))
