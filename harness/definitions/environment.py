"""The environment variables that a case may set. With this table a misspelt name is an error, no silent default."""

from __future__ import annotations

import difflib
import functools
import re
from importlib.metadata import entry_points
from typing import Final, NamedTuple

GROUP: Final = "quantgate.environments"
"""Entry points of this group name an :class:`EnvironmentRule` for a backend of another distribution."""


LEASED: Final = frozenset({"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES"})
"""Variables that select the GPU of a process. Only the lease sets them: a case could take another run's GPU."""


DIRECTING: Final = frozenset(
    {"HF_ENDPOINT", "HF_INFERENCE_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR",
     "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HUGGINGFACE_CO_STAGING", "OPENSSL_CONF", "SSLKEYLOGFILE",
     "PYTHONHTTPSVERIFY", "GIT_SSL_NO_VERIFY", "NODE_TLS_REJECT_UNAUTHORIZED", "NETRC", "PIP_TRUSTED_HOST"}
)  # fmt: skip
"""Variables that direct a token to a server, or decide who may read it on the way. A case file is data, so only the
caller sets them."""
_DIRECTING_NAME = re.compile(
    r"(?:[A-Z0-9_]*_)?(?:ENDPOINT|ENDPOINT_URL(?:_[A-Z0-9]+)?|PROXY|BASE_URL|API_BASE|INDEX_URL|REGISTRY"
    r"|CA_BUNDLE|CA_CERTS|CAINFO|CERT_FILE|CERT_DIR)"
)
"""Names by which libraries call such a variable, each under its own prefix: ``AWS_ENDPOINT_URL_S3``."""


def directs_tokens(name: str) -> bool:
    """Return whether a variable of this name decides where tokens are sent, or who may read them on the way."""
    # programs read `http_proxy` in lower case too
    return name.upper() in DIRECTING or _DIRECTING_NAME.fullmatch(name.upper()) is not None


class EnvironmentRule(NamedTuple):
    """The variables that the libraries of one backend are known to read."""

    names: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()
    anything: bool = False
    """Whether the backend runs an unknown program, so that every variable of the case is passed on."""

    def knows(self, name: str) -> bool:
        """Return whether a variable called ``name`` can have an effect by this table."""
        return self.anything or name in self.names or name.startswith(self.prefixes)


ENVIRONMENTS: Final[dict[str, EnvironmentRule]] = {
    "diffusers": EnvironmentRule(
        names=frozenset(
            {
                # which kernels the CPU uses
                "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE",
                "ONEDNN_VERBOSE", "OMP_NUM_THREADS", "OMP_DYNAMIC", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY",
                "OPENBLAS_NUM_THREADS",
                # which kernels the GPU uses
                "CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_WORKSPACE_SIZE", "NVIDIA_TF32_OVERRIDE", "CUBLAS_LOGINFO_DBG",
                # where weights and kernels come from
                "HF_HUB_OFFLINE", "HF_HOME", "HF_HUB_CACHE", "TRITON_CACHE_DIR",
                "TOKENIZERS_PARALLELISM", "DIFFUSERS_ATTN_BACKEND", "DIFFUSERS_VERBOSITY",
                "PYTHONHASHSEED", "LD_LIBRARY_PATH", "LD_PRELOAD",
            }
        ),
        prefixes=("CUDA_", "CUDNN_", "KMP_", "MKL_", "NCCL_", "PYTORCH_", "TORCH_", "TORCHINDUCTOR_", "QUANTGATE_"),
    ),
    "command": EnvironmentRule(anything=True),
    "openai-video": EnvironmentRule(anything=True),
}  # fmt: skip
ENVIRONMENTS["sglang"] = EnvironmentRule(
    names=ENVIRONMENTS["diffusers"].names,
    prefixes=(*ENVIRONMENTS["diffusers"].prefixes, "SGLANG_", "SGL_", "FLASHINFER_", "TORCHDYNAMO_", "TRITON_"),
)

_SECRET = re.compile(
    r"(^|_)(TOKENS?|SECRETS?|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|KEYS?)($|_)|(TOKEN|SECRET|PASSWORD|APIKEY)(_|$)",
    re.IGNORECASE,
)


@functools.cache
def environment_of(backend: str) -> EnvironmentRule:
    """Return the rule of ``backend``: from this table, else from the backend's distribution, else an empty rule."""
    if backend in ENVIRONMENTS:
        return ENVIRONMENTS[backend]
    for entry in entry_points(group=GROUP, name=backend):
        rule = entry.load()
        if isinstance(rule, EnvironmentRule):
            return rule
    return EnvironmentRule()


def looks_secret(name: str) -> bool:
    """Return whether a variable of this name is likely to hold a secret, which cases and records must never show."""
    return _SECRET.search(name) is not None


def check_leased(name: str) -> str | None:
    """Return the fault of naming ``name`` in ``env`` or ``pass_env`` of a case, or ``None``."""
    if name not in LEASED:
        return None
    return f"{name} belongs to the lease of the GPU; take it out, and choose the runner with `runners:`"


def check_name(name: str, backend: str, pass_env: tuple[str, ...]) -> str | None:
    """Return the fault of setting ``name`` in the ``env`` of a case, or ``None``."""
    if wrong := check_leased(name):
        return wrong
    if directs_tokens(name):
        how = f"take it from the caller: `pass_env: [{name}]`"
        return f"{name} says where tokens are sent, which a data file must not; {how}"
    if looks_secret(name):
        return f"{name} looks like a secret; take it from the caller: `pass_env: [{name}]`"
    rule = environment_of(backend)
    if rule.knows(name) or name in pass_env:
        return None
    close = difflib.get_close_matches(name.upper(), sorted(rule.names), n=1, cutoff=0.8)
    hint = f"did you mean {close[0]}?" if close else f"if it has an effect, say so: `pass_env: [{name}]`"
    return f"{name}: no environment variable that backend {backend} reads; {hint}"
