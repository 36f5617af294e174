"""The checkpoint inspector: prove from bytes how a checkpoint is encoded, and which runtimes misread it. No torch."""

from harness.formats.errors import BadReferenceError, ContractError, InspectionInterruptedError, SourceError
from harness.inspector.contracts import load_contract
from harness.inspector.inspect import inspect_checkpoint

__all__ = [
    "BadReferenceError",
    "ContractError",
    "InspectionInterruptedError",
    "SourceError",
    "inspect_checkpoint",
    "load_contract",
]
