#!/usr/bin/env python
"""Run vrd_d2.commands.predict from a checkout; the console command of it is vrd-predict."""

import sys

from vrd_d2.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())
