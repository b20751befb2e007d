#!/usr/bin/env python
"""Run vrd_d2.commands.demo from a checkout; the console command of it is vrd-demo."""

import sys

from vrd_d2.commands.demo import main

if __name__ == "__main__":
    sys.exit(main())
