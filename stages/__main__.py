"""`python -m stages STAGE CONFIG.yaml [key=value ...]`: one stage, see `stages.commands.stage`."""

import sys

from stages.commands.stage import main

if __name__ == "__main__":
    sys.exit(main())
