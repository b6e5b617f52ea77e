"""`luss config`: every setting of a configuration, resolved."""

import argparse

from luss.config import load_config, to_yaml
from stages.commands.base import config_arguments
from stages.running.screen import Console

HELP = "print every setting, resolved"
arguments = config_arguments


def main(options: argparse.Namespace) -> None:
    """Prints YAML."""
    Console().write(to_yaml(load_config(options.config, options.words)))
