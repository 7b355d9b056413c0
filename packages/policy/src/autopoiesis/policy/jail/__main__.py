"""Become a zygote; started by `Jail`, not by hand."""

import sys

from autopoiesis.policy.jail.zygote import main

main(sys.argv[1:])
