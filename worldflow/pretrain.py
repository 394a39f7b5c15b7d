"""`python -m worldflow.pretrain` is `worldflow pretrain`: a module, as torchrun wants one."""

from __future__ import annotations

import sys

from worldflow.cli import main

if __name__ == "__main__":
    sys.exit(main(["pretrain", *sys.argv[1:]]))
