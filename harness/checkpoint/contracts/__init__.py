"""Runtime contracts: what a runtime version assumes where a checkpoint does not say."""

from harness.checkpoint.contracts.model import Contract, Rules, known_contracts, load_contract
from harness.checkpoint.contracts.resolve import Resolved, resolve

__all__ = ["Contract", "Resolved", "Rules", "known_contracts", "load_contract", "resolve"]
