#!/usr/bin/env python
"""Run vrd_d2.commands.evaluate from a checkout; the console command of it is vrd-evaluate."""

import sys

from vrd_d2.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
