"""The flags of tensorflow_model_server 2.20 (contract 1): one table for its linter and for the embedded server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

_CPUS = os.cpu_count() or 1

Value = bool | int | float | str


class FlagType(Enum):
    """The type of a flag's value."""

    BOOL = "bool"
    INT32 = "int32"
    INT64 = "int64"
    FLOAT = "float"
    STRING = "string"

    def in_range(self, number: int) -> bool:
        """Tell whether `number` fits into an integer of this type."""
        limit = 2**63 if self is FlagType.INT64 else 2**31
        return -limit <= number < limit


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag; `embedded` tells whether it has an effect in the embedded model server, too."""

    name: str
    type: FlagType
    default: Value
    usage: str
    embedded: bool = True


_BOOL, _INT32, _INT64, _FLOAT, _STRING = FlagType
_TABLE = (
    Flag("port", _INT32, 8500, "TCP port of gRPC, bound to 0.0.0.0; 0 disables it"),
    Flag("grpc_socket_path", _STRING, "", "Unix socket on which gRPC listens too"),
    Flag("rest_api_port", _INT32, 0, "port of the REST API; 0 disables it"),
    Flag("rest_api_num_threads", _INT32, 4 * _CPUS, "threads of the REST API"),
    Flag("rest_api_timeout_in_ms", _INT32, 30000, "time a REST call may take, milliseconds"),
    Flag("rest_api_enable_cors_support", _BOOL, False, "send CORS headers"),
    Flag("enable_batching", _BOOL, False, "join concurrent requests into batches"),
    Flag("allow_version_labels_for_unavailable_models", _BOOL, False, "let an unassigned label name any version"),
    Flag("batching_parameters_file", _STRING, "", "text BatchingParameters"),
    Flag("enable_per_model_batching_parameters", _BOOL, False, "read batching_params.pbtxt from each version"),
    Flag("model_config_file", _STRING, "", "text ModelServerConfig; replaces --model_name and --model_base_path"),
    Flag("model_config_file_poll_wait_seconds", _INT32, 0, "period of reading the config file again; 0: never"),
    Flag("model_name", _STRING, "default", "name of the one model"),
    Flag("model_base_path", _STRING, "", "directory that holds the version directories of the one model"),
    Flag("num_load_threads", _INT32, 0, "threads that load versions; 0: the manager's own"),
    Flag("num_unload_threads", _INT32, 0, "threads that unload versions; 0: the manager's own"),
    Flag("max_num_load_retries", _INT32, 5, "how often a failed load is tried again"),
    Flag("load_retry_interval_micros", _INT64, 60_000_000, "pause before a load is tried again, microseconds"),
    Flag("file_system_poll_wait_seconds", _INT32, 1, "period of looking for versions; 0: once; negative: never"),
    Flag("flush_filesystem_caches", _BOOL, True, "drop file system caches after loads", embedded=False),
    Flag("tensorflow_session_parallelism", _INT64, 0, "threads within and between operations"),
    Flag("tensorflow_intra_op_parallelism", _INT64, 0, "threads within operations"),
    Flag("tensorflow_inter_op_parallelism", _INT64, 0, "threads between operations"),
    Flag("tensorflow_session_config_file", _STRING, "", "text ConfigProto of every session"),
    Flag("ssl_config_file", _STRING, "", "text SSLConfig for gRPC"),
    Flag("use_alts_credentials", _BOOL, False, "use Google ALTS", embedded=False),
    Flag("platform_config_file", _STRING, "", "text PlatformConfigMap", embedded=False),
    Flag("per_process_gpu_memory_fraction", _FLOAT, 0.0, "share of the GPU memory"),
    Flag("saved_model_tags", _STRING, "serve", "comma-separated tags; equal to the MetaGraph's"),
    Flag("grpc_channel_arguments", _STRING, "", "comma-separated name=value arguments of the gRPC server"),
    Flag("grpc_max_threads", _INT32, 4 * _CPUS, "RPCs that run at once; more are refused with RESOURCE_EXHAUSTED"),
    Flag("enable_grpc_healthcheck_service", _BOOL, False, "serve grpc.health.v1.Health"),
    Flag("enable_model_warmup", _BOOL, True, "replay the warm-up requests of a version inside its load"),
    Flag("num_request_iterations_for_warmup", _INT32, 0, "how often each warm-up request is replayed; 0: once"),
    Flag("version", _BOOL, False, "print the versions and exit"),
    Flag("monitoring_config_file", _STRING, "", "text MonitoringConfig"),
    Flag("remove_unused_fields_from_bundle_metagraph", _BOOL, True, "keep only the signatures", embedded=False),
    Flag("prefer_tflite_model", _BOOL, False, "load model.tflite where there is one", embedded=False),
    Flag("num_tflite_pools", _INT32, _CPUS, "TFLite pools", embedded=False),
    Flag("num_tflite_interpreters_per_pool", _INT32, 1, "TFLite interpreters", embedded=False),
    Flag("enable_signature_method_name_check", _BOOL, False, "enforce SignatureDef.method_name"),
    Flag("xla_cpu_compilation_enabled", _BOOL, False, "let XLA compile what asks for it, on CPUs"),
    Flag("xla_gpu_compilation_enabled", _BOOL, False, "let XLA compile what asks for it, on GPUs"),
    Flag("enable_profiler", _BOOL, True, "serve the profiler", embedded=False),
    Flag("thread_pool_factory_config_file", _STRING, "", "text ThreadPoolConfig", embedded=False),
    Flag("mixed_precision", _STRING, "", "'bfloat16' for mixed precision", embedded=False),
    Flag("skip_initialize_tpu", _BOOL, False, "leave TPUs uninitialized", embedded=False),
    Flag("enable_serialization_as_tensor_content", _BOOL, False, "answer Predict with tensor_content"),
)  # fmt: skip
FLAGS: Mapping[str, Flag] = {flag.name: flag for flag in _TABLE}
