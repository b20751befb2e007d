#!/usr/bin/env python
"""Run vrd_d2.commands.train from a checkout; the console command of it is vrd-train."""

import sys

from vrd_d2.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
