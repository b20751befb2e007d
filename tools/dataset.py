#!/usr/bin/env python
"""Run vrd_d2.commands.dataset from a checkout; the console command of it is vrd-dataset."""

import sys

from vrd_d2.commands.dataset import main

if __name__ == "__main__":
    sys.exit(main())
