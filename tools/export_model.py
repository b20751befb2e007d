#!/usr/bin/env python
"""Run vrd_d2.commands.export from a checkout; the console command of it is vrd-export."""

import sys

from vrd_d2.commands.export import main

if __name__ == "__main__":
    sys.exit(main())
