"""The checkpoint inspector: proves from bytes how a checkpoint is encoded, and who will read it otherwise. No torch."""

from harness.checkpoint.contracts import load_contract
from harness.checkpoint.errors import BadReferenceError, ContractError, InspectionInterruptedError, SourceError
from harness.checkpoint.inspect import inspect_case, inspect_checkpoint

__all__ = [
    "BadReferenceError",
    "ContractError",
    "InspectionInterruptedError",
    "SourceError",
    "inspect_case",
    "inspect_checkpoint",
    "load_contract",
]
