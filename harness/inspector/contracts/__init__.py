"""Runtime contracts: the behaviour of a runtime's version, transcribed from its code or learned by running it."""

from harness.inspector.contracts.model import Contract, Rules, known_contracts, load_contract
from harness.inspector.contracts.resolve import Resolved, resolve

__all__ = ["Contract", "Resolved", "Rules", "known_contracts", "load_contract", "resolve"]
