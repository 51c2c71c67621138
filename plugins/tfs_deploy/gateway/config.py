"""What a gateway is told: the sections of its YAML file (`config_file` reads and checks it)."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal

import msgspec

from tfs_deploy.serving.group import Mode
from tfs_deploy.serving.group_settings import TLSFiles
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


# Structs, not dataclasses: a misspelt key must be an error here, or a limit would be silently missing.
class ListenTLS(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PEM files of the certificate chain that clients see, and its key."""

    certificate: _Text
    key: _Text


class Listen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where HTTP is served; port 0 takes a free one."""

    port: _Port = 8080
    address: str = "127.0.0.1"
    tls: ListenTLS | None = None

    @property
    def loopback(self) -> bool:
        """Tell whether only this machine can reach the port."""
        try:
            return ipaddress.ip_address(self.address).is_loopback
        except ValueError:
            return self.address == "localhost"


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one request, and all of them together, may take.

    `concurrency` Predict calls per model are under way at once, `queue` requests per model wait for their turn, the
    next one is told to come back later. `timeout_seconds` is what a request has unless it asks for less;
    `drain_seconds` what the requests under way have after SIGTERM; `connections` idle ones included.
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
    """How the model servers are watched.

    Every `interval_seconds` each is asked what the labels mean; an answer older than `max_age_seconds` is not used,
    so that no request goes to a version that was `stable` longer ago than that. `timeout_seconds` is what a model
    server has to answer; `resolve_seconds` is how often names written as ``dns:…`` are looked up again.
    """

    interval_seconds: _Seconds = 0.5
    timeout_seconds: _Seconds = 1.0
    max_age_seconds: _Seconds = 1.0
    resolve_seconds: _Seconds = 5.0


class Retries(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long a request looks for a model server that answers.

    While every model server refuses, it tries again for `seconds` and never beyond its deadline. `lost` is how many
    times it is sent again after a model server went away with it: few, because a request that kills model servers
    must not be handed round.
    """

    seconds: Annotated[float, msgspec.Meta(ge=0.0, le=3600.0)] = 3.0
    lost: Annotated[int, msgspec.Meta(ge=0, le=10)] = 1


class Auth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may ask: keys from a file (one per line, ``name:key`` or ``key``) or from an environment variable.

    `open` says that nobody needs a key; without it, an address other than loopback needs keys.
    """

    keys_file: _Text | None = None
    keys_env: _Text | None = None
    open: bool = False

    @property
    def has_keys(self) -> bool:
        """Tell whether any keys were configured."""
        return bool(self.keys_file or self.keys_env)


class Cors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Web pages of these origins (``https://app.example``, or ``*``) may read answers."""

    origins: tuple[str, ...] = ()
    max_age_seconds: _NotNegative = 600


class Fetch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be fetched for a request that names a URL.

    Public addresses only, apart from `allow_hosts`: host names, addresses or networks (``10.1.0.0/16``) that may be
    fetched from although they are not public. `only_hosts`, if given, is all that may be fetched from.
    `parallel` fetches at once per request, `total_parallel` in the gateway; `max_mib` is the size of one body after
    decompression.
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
    """The processes that run CPU-heavy processors; `workers` 0 means one per CPU."""

    workers: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    queue: _Count = 256
    timeout_seconds: _Seconds = 10.0


class Page(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The page at ``/`` on which a model can be tried."""

    enabled: bool = True


class ProcessorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A built-in name, an entry point's name or ``module:attribute``, and what it is made with.

    `in_pool` None leaves it to the processor whether it runs in a process of the pool. `base` is where relative paths
    in the options count from: the directory of the configuration file, which sets it.
    """

    name: _Text
    options: dict[str, Any] = {}
    in_pool: bool | None = None
    base: str = ""


class MicroBatching(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requests that arrive within `wait_ms` of each other go as one Predict of at most `max_rows` rows.

    `eager`: a request that finds none of its kind under way is not held back.
    """

    max_rows: Annotated[int, msgspec.Meta(ge=2, le=65_536)] = 32
    wait_ms: _Milliseconds = 3.0
    eager: bool = True


class Canary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """This share of the requests goes to another label; the same value of `sticky_header` always the same way."""

    label: _Text = "canary"
    percent: _Percent = 0.0
    sticky_header: str | None = None


class Shadow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Copies of this share of the requests go to another label; nobody waits for the answers."""

    label: _Text = "canary"
    percent: _Percent = 0.0
    parallel: _Count = 8


class Hedging(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request without an answer after `after_ms` is sent to a second replica too; at most for this share of them."""

    after_ms: _Milliseconds
    max_percent: _Percent = 20.0


class CaptureConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """This share of the requests and answers is written to PredictionLog TFRecord files in `directory`.

    `redact` names inputs and outputs whose values are blanked; `max_mib` is the size of all files together,
    `file_mib` of one; `upload` is the URI of a store that finished files are copied to.
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

    `model` is the name on the model servers if it differs; `labels` are further labels that a client may ask for by
    URL; `outputs` the outputs that are asked for (none: all); `replicas` those of this model if not the gateway's.
    `mode` is that of the serving group: with ``latest`` there are no labels, `label` is empty, and each model server
    answers with the highest version that is AVAILABLE there. `ranks` says how many dimensions those inputs have of
    which the signature does not say it (``any``: whatever is given); without it nothing is sent for them.
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
