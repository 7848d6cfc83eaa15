"""``python -m wvindex``."""

from wvindex.cli.main import main

main()
