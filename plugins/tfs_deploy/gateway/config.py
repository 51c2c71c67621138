"""The sections of the gateway's YAML file; `config_file` reads and checks it."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal

import msgspec

from tfs_deploy.serving.group import Mode, TLSFiles
from tfs_deploy.serving.signature import DEFAULT_SIGNATURE

_Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
_Percent = Annotated[float, msgspec.Meta(ge=0.0, le=100.0)]
_Seconds = Annotated[float, msgspec.Meta(gt=0.0, le=3600.0)]
_Milliseconds = Annotated[float, msgspec.Meta(gt=0.0, le=60_000.0)]
_Mebibytes = Annotated[float, msgspec.Meta(gt=0.0, le=2048.0)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
_NotNegative = Annotated[int, msgspec.Meta(ge=0, le=100_000)]
_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Rank = Annotated[int, msgspec.Meta(ge=0, le=32)]

MIB = 1 << 20


# Structs, not dataclasses, because a misspelt key must be an error; otherwise a limit would be missing silently.
class ListenTLS(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PEM files of the server's certificate chain and its key."""

    certificate: _Text
    key: _Text


class Listen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The address of the HTTP port; port 0 selects a free one."""

    port: _Port = 8080
    address: str = "127.0.0.1"
    tls: ListenTLS | None = None

    @property
    def loopback(self) -> bool:
        """Return whether only this machine can reach the port."""
        try:
            return ipaddress.ip_address(self.address).is_loopback
        except ValueError:
            return self.address == "localhost"


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The limits of one request, and of all requests together.

    Per model, `concurrency` Predict calls are in flight and `queue` requests wait; any further one gets status 429.
    `timeout_seconds` is the longest timeout of a request; `drain_seconds` is the time for requests in flight after
    SIGTERM; `connections` include idle ones.
    """

    body_mib: _Mebibytes = 16.0
    items: _Count = 64
    concurrency: _Count = 256
    queue: _NotNegative = 512
    timeout_seconds: _Seconds = 10.0
    drain_seconds: _Seconds = 30.0
    connections: _Count = 20_000

    @property
    def body_bytes(self) -> int:
        """Return the largest body in bytes."""
        return int(self.body_mib * MIB)


class Health(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the labels are queried at the model servers.

    Each label is queried every `interval_seconds`; an answer older than `max_age_seconds` is not used, so that no
    request goes to a version that was `stable` longer ago. `timeout_seconds` is the timeout of a query;
    `resolve_seconds` is the interval at which ``dns:…`` names are resolved again.
    """

    interval_seconds: _Seconds = 0.5
    timeout_seconds: _Seconds = 1.0
    max_age_seconds: _Seconds = 1.0
    resolve_seconds: _Seconds = 5.0


class Retries(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a request is tried again.

    While every model server refuses it, a request is tried again for `seconds`, and never beyond its deadline. After a
    lost connection it is sent again at most `lost` times, because a request that crashes model servers must not reach
    all of them.
    """

    seconds: Annotated[float, msgspec.Meta(ge=0.0, le=3600.0)] = 3.0
    lost: Annotated[int, msgspec.Meta(ge=0, le=10)] = 1


class Auth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """API keys from a file (one per line, ``name:key`` or ``key``) or from an environment variable.

    `open` means that requests need no key; without it, an address other than loopback requires keys.
    """

    keys_file: _Text | None = None
    keys_env: _Text | None = None
    open: bool = False

    @property
    def has_keys(self) -> bool:
        """Return whether keys are configured."""
        return bool(self.keys_file or self.keys_env)


class Cors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The origins (``https://app.example``, or ``*``) whose web pages may read replies."""

    origins: tuple[str, ...] = ()
    max_age_seconds: _NotNegative = 600


class Fetch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the URLs in requests are fetched.

    Only public addresses are allowed, and `allow_hosts`: host names, addresses or networks (``10.1.0.0/16``) that are
    not public. `only_hosts`, if given, restricts fetching to these. `parallel` fetches run at once per request,
    `total_parallel` in the gateway; `max_mib` is the limit of one body after decompression.
    """

    enabled: bool = True
    allow_hosts: tuple[str, ...] = ()
    only_hosts: tuple[str, ...] = ()
    max_mib: _Mebibytes = 8.0
    timeout_seconds: _Seconds = 5.0
    redirects: Annotated[int, msgspec.Meta(ge=0, le=10)] = 3
    parallel: _Count = 8
    total_parallel: _Count = 64
    content_types: tuple[str, ...] = ("image/*", "application/octet-stream", "binary/octet-stream")

    @property
    def max_bytes(self) -> int:
        """Return the largest body in bytes."""
        return int(self.max_mib * MIB)


class Pool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The processes for CPU-heavy processors; `workers` 0 means one per CPU."""

    workers: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    queue: _Count = 256
    timeout_seconds: _Seconds = 10.0


class Page(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The page at ``/`` for trying a model."""

    enabled: bool = True


class ProcessorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A built-in name, an entry point's name or ``module:attribute``, and its options.

    `in_pool` None lets the processor decide whether it runs in a process of the pool. `base` is the directory of the
    configuration file, below which relative paths in the options are.
    """

    name: _Text
    options: dict[str, Any] = {}
    in_pool: bool | None = None
    base: str = ""


class MicroBatching(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requests that arrive within `wait_ms` of each other become one Predict of at most `max_rows` rows.

    `eager` sends a request at once where no similar one is in flight.
    """

    max_rows: Annotated[int, msgspec.Meta(ge=2, le=65_536)] = 32
    wait_ms: _Milliseconds = 3.0
    eager: bool = True


class Canary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A share of the requests goes to another label; equal values of `sticky_header` go to the same one."""

    label: _Text = "canary"
    percent: _Percent = 0.0
    sticky_header: str | None = None


class Shadow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Copies of a share of the requests go to another label; their answers are dropped."""

    label: _Text = "canary"
    percent: _Percent = 0.0
    parallel: _Count = 8


class Hedging(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request without an answer after `after_ms` goes to a second replica too, for at most `max_percent` of all."""

    after_ms: _Milliseconds
    max_percent: _Percent = 20.0


class CaptureConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A share of the requests and answers is written to PredictionLog TFRecord files in `directory`.

    `redact` names inputs and outputs whose values are removed; `max_mib` is the limit of all files together,
    `file_mib` of one; `upload` is the URI of a store for finished files.
    """

    directory: _Text
    percent: _Percent = 1.0
    redact: tuple[str, ...] = ()
    max_mib: Annotated[float, msgspec.Meta(gt=0.0, le=1_048_576.0)] = 64.0
    file_mib: _Mebibytes = 8.0
    record_mib: _Mebibytes = 1.0
    queue: _Count = 256
    upload: str | None = None


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One endpoint: ``POST /v1/models/<its name>``.

    `model` is the name on the model servers if it differs; `labels` are further labels that clients may request by
    URL; `outputs` are the requested outputs (empty: all); `replicas` are those of this model if not the gateway's.
    `mode` is that of the serving group: with ``latest`` there are no labels, `label` is empty, and each model server
    answers with its highest version that is AVAILABLE. `ranks` says how many dimensions those inputs have whose
    rank the signature leaves open (``any``: any number); without it, requests with such inputs are refused.
    """

    model: str = ""
    mode: Mode = Mode.LABELS
    label: str = "stable"
    labels: tuple[str, ...] = ()
    signature: _Text = DEFAULT_SIGNATURE
    outputs: tuple[str, ...] = ()
    ranks: dict[str, _Rank | Literal["any"]] = {}
    replicas: tuple[str, ...] = ()
    timeout_seconds: _Seconds | None = None
    description: str = ""
    processor: ProcessorConfig = ProcessorConfig(name="tensors")
    postprocessor: ProcessorConfig | None = None
    micro_batching: MicroBatching | None = None
    canary: Canary | None = None
    shadow: Shadow | None = None
    hedging: Hedging | None = None
    capture: CaptureConfig | None = None


class GatewayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file; only `models`, and `replicas` here or in each of them, must be given.

    `replica_tls` names the PEM files for the connections to the model servers.
    """

    models: dict[str, ModelConfig]
    replicas: tuple[str, ...] = ()
    replica_tls: TLSFiles | None = None
    listen: Listen = Listen()
    limits: Limits = Limits()
    health: Health = Health()
    retries: Retries = Retries()
    auth: Auth = Auth()
    cors: Cors = Cors()
    fetch: Fetch = Fetch()
    pool: Pool = Pool()
    page: Page = Page()
