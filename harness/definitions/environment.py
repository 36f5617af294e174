"""The environment variables that a case may set. With this table a misspelt name is an error, no silent default."""

from __future__ import annotations

import difflib
import functools
import re
from importlib.metadata import entry_points
from typing import Final, NamedTuple

from harness.redaction import shape_of_token

GROUP: Final = "quantgate.environments"
"""Entry points of this group name an :class:`EnvironmentRule` for a backend of another distribution."""


LEASED: Final = frozenset({"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES"})
"""Variables that select the GPU of a process. Only the lease sets them: a case could take another run's GPU."""


_DIRECTING = re.compile(
    # servers and ways to them: HF_ENDPOINT, AWS_ENDPOINT_URL_S3, OPENAI_BASE_URL, PIP_INDEX_URL, https_proxy
    r"(^|_)(ENDPOINTS?|BASE_URL|API_BASE|(EXTRA_)?INDEX_URL)($|_)|^(HTTPS?|ALL|FTP|WSS?|SOCKS[45]?)_PROXY$"
    r"|^(HUGGINGFACE_CO|HF)_STAGING$"  # huggingface_hub's switch to another hub
    # whom an encrypted connection believes, and files that hold its keys or the passwords of servers
    r"|(^|_)(CA_BUNDLE|CA_CERTS?|SSL_CERT_(FILE|DIR)|SSL_NO_VERIFY|SSL_VERIFY|SSL_VERIFICATION|HTTPSVERIFY)($|_)"
    r"|^(SSLKEYLOGFILE|NETRC|OPENSSL_CONF|CURL_HOME|PYTHONHTTPSVERIFY|PIP_CONFIG_FILE|UV_CONFIG_FILE)$"
    # git: addresses that are rewritten, and the program that connects
    r"|^GIT_(CONFIG|SSH|ASKPASS|EXEC)",
    re.IGNORECASE,
)
"""Names of variables that direct a token to a server, or decide who may read it on the way."""


def directs_tokens(name: str) -> bool:
    """Return whether a variable of this name decides where tokens go. A case is data, so only the caller sets it."""
    return _DIRECTING.search(name) is not None


class EnvironmentRule(NamedTuple):
    """Environment variables that the libraries of one backend read."""

    names: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()
    anything: bool = False
    """Whether the backend runs an unknown program, so that every variable of the case is passed on."""

    def covers(self, name: str) -> bool:
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


OWN: Final = frozenset({"QUANTGATE_ENGINE"})
"""The mark by which an engine's processes are found again: with another value, they would be left over."""


def check_leased(name: str) -> str | None:
    """Return the fault of naming ``name`` in ``env`` or ``pass_env`` of a case, or ``None``."""
    if name in OWN:
        return f"{name} marks the processes of an engine, which the run must find again; take it out"
    if name not in LEASED:
        return None
    return f"{name} belongs to the lease of the GPU; take it out, and choose the runner with `runners:`"


def check_value(name: str, value: str) -> str | None:
    """Return the fault of a value in the ``env`` of a case that has the shape of a token, or ``None``.

    The value is not quoted: a case file is committed, and its errors are printed in public logs.
    """
    if shape_of_token(value):
        return f"its value looks like a secret; take it from the caller: `pass_env: [{name}]`"
    return None


def check_name(name: str, backend: str, pass_env: tuple[str, ...]) -> str | None:
    """Return the fault of setting ``name`` in the ``env`` of a case, or ``None``."""
    if wrong := check_leased(name):
        return wrong
    # in any case of letters: programs read `http_proxy` too
    if directs_tokens(name):
        how = f"take it from the caller: `pass_env: [{name}]`"
        return f"{name} says where tokens are sent, which a data file must not; {how}"
    if looks_secret(name):
        return f"{name} looks like a secret; take it from the caller: `pass_env: [{name}]`"
    rule = environment_of(backend)
    if rule.covers(name) or name in pass_env:
        return None
    close = difflib.get_close_matches(name.upper(), sorted(rule.names), n=1, cutoff=0.8)
    hint = f"did you mean {close[0]}?" if close else f"if it has an effect, say so: `pass_env: [{name}]`"
    return f"{name}: no environment variable that backend {backend} reads; {hint}"
