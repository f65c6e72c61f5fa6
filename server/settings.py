"""What an operator may turn: one frozen class, flags and environment from the same fields."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, CliApp, NoDecode, SettingsConfigDict, SettingsError

from server.errors import SettingsFault

PREFIX = "DRAGOMAN_"
# Read by the client, which may run in the same environment.
FOREIGN_NAMES = frozenset({"DRAGOMAN_TARGET", "DRAGOMAN_API_KEY"})

Positive = Annotated[int, Field(ge=1)]


def _paths(value: object) -> object:
    """Paths of one string, which is what flag and environment give; commas between them."""
    if isinstance(value, str):
        return [path for path in value.split(",") if path]
    return [value] if isinstance(value, Path) else value


def _names(value: object) -> object:
    """Names of one string; commas between them."""
    return [name for name in value.split(",") if name] if isinstance(value, str) else value


# pydantic-settings would want JSON in the environment.
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)]
Paths = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_paths), Field(min_length=1)]


class Settings(BaseSettings):
    """Settings of ``dragoman serve``. Each flag has an environment name, DRAGOMAN_ and its own."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        cli_prog_name="dragoman serve",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
    )

    bundle: Paths = Field(
        (Path("bundles/en-zh-TW"),),
        description="directory of a model to serve; for several, repeat it or put commas between",
    )
    model_admin: bool = Field(
        default=False,
        description="serve LoadModel and UnloadModel to whoever reaches the port",
    )
    model_root: Path = Field(
        Path("bundles"), description="LoadModel takes bundles inside this directory, no others"
    )
    max_models: Positive = Field(16, description="most models live at once")
    unload_grace_seconds: Annotated[float, Field(ge=0)] = Field(
        300.0,
        description="time for running requests to finish on a model that is replaced or unloaded",
    )
    pivot_languages: Names = Field(
        ("en",),
        description="a pair that no model has goes through the first of these that has models for "
        "both halves; empty = such a pair is refused",
    )
    host: str = Field("127.0.0.1", description="address to listen on, gRPC and metrics")
    metrics_host: str | None = Field(
        None, description="address of /metrics, which asks for no key; that of gRPC if not given"
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        50051, description="gRPC port; 0 takes a free one"
    )
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        9464, description="port of /metrics; 0 takes a free one"
    )
    http: bool = Field(
        default=True, description="serve the HTTP APIs (LibreTranslate, DeepL) and the page"
    )
    http_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        8080, description="port of HTTP, on the host of gRPC, encrypted if that is; 0 = a free one"
    )
    http_timeout_seconds: Annotated[float, Field(gt=0)] = Field(
        60.0, description="time for an answer by HTTP, whose callers give no deadline; then 504"
    )
    http_read_seconds: Annotated[float, Field(gt=0)] = Field(
        10.0, description="time for a request's headers to come, and again for its body"
    )
    http_max_connections: Positive = Field(
        1024, description="HTTP connections at once; more are closed"
    )
    http_cors_origins: Names = Field(
        (),
        description="origins of web pages that may call the HTTP APIs, '*' = all; commas between",
    )

    engines: Annotated[int, Field(ge=0, le=256)] = Field(
        0, description="engine threads of a model, each with a batch of its own; 0 = one a core"
    )
    engine_threads: Positive = Field(1, description="ONNX Runtime threads inside each engine")
    slots: Annotated[int, Field(ge=1, le=1024)] = Field(
        64, description="sentences decoded at once by each engine; one that branches takes several"
    )
    provider: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="where bundles run; auto = each where it was exported for, and nothing else is "
        "taken instead of what is asked",
    )
    device_id: Annotated[int, Field(ge=0, le=255)] = Field(0, description="CUDA device")
    gpu_mem_limit: Annotated[int, Field(ge=0)] = Field(
        0,
        description="most bytes of device memory that each graph's arena takes, on top of keys "
        "and values; 0 = no limit",
    )
    cuda_graphs: bool = Field(
        default=False,
        description="record decoder steps as CUDA graphs, one a size of batch, and replay them",
    )

    max_encode_tokens: Positive = Field(
        256, description="most tokens of one encoder batch, padding counted"
    )
    window: Positive = Field(
        64, description="waiting sentences looked at for an encoder batch of like lengths"
    )

    max_queue_sentences: Positive = Field(
        4096, description="sentences that may wait for a model; more are refused"
    )
    max_texts: Positive = Field(1024, description="most texts of one request")
    max_terms: Annotated[int, Field(ge=0)] = Field(
        1000, description="most terms of one request, do-not-translate ones counted"
    )
    bulk_window: Positive = Field(
        256, description="items of one bulk stream that are worked on at a time"
    )
    max_text_characters: Positive = Field(100_000, description="most characters of one text")
    max_request_characters: Positive = Field(
        400_000, description="most characters of one request, all texts together"
    )
    max_output_tokens: Positive = Field(
        1024, description="most target tokens a caller may ask for a sentence; the model caps too"
    )
    max_beams: Annotated[int, Field(ge=1, le=64)] = Field(
        16, description="most hypotheses a caller may ask for side by side; at most the slots"
    )
    interactive_sentences: Positive = Field(
        32, description="a call of more sentences is bulk work, unless it says otherwise"
    )
    degeneration_guard: bool = Field(
        default=True, description="stop outputs that go round in circles, and try again once"
    )
    sentence_cache_bytes: Annotated[int, Field(ge=0)] = Field(
        16 * 1024 * 1024,
        description="memory for translations to give again, about 1 kB each; 0 = none, and "
        "identical sentences in flight are decoded each on their own",
    )
    max_message_bytes: Positive = Field(
        4 * 1024 * 1024, description="largest gRPC message, in and out, and HTTP body"
    )
    max_concurrent_streams: Positive = Field(
        1024, description="requests in flight on one connection"
    )
    max_concurrent_requests: Positive = Field(
        2048, description="requests in flight on the server; more are refused"
    )

    keepalive_time_ms: Positive = Field(60_000, description="ping a silent client after this long")
    keepalive_timeout_ms: Positive = Field(20_000, description="drop it if no answer comes")
    min_ping_interval_ms: Positive = Field(
        10_000, description="pings of clients may come this often (gRPC's own default: 5 minutes)"
    )
    max_connection_idle_ms: Positive | None = Field(
        None, description="close a connection without requests after this long"
    )
    max_connection_age_ms: Positive | None = Field(
        None, description="close a connection after this long, so that balancers spread anew"
    )
    max_connection_age_grace_ms: Positive = Field(
        60_000, description="time for its requests to finish then"
    )

    tls_certificate: Path | None = Field(
        None, description="encrypt: the certificate chain to show (PEM), read again on change"
    )
    tls_key: Path | None = Field(None, description="its private key (PEM)")
    tls_client_ca: Path | None = Field(
        None, description="ask callers for a certificate of this authority (PEM): mutual TLS"
    )
    key_file: Path | None = Field(
        None,
        description="ask callers for a key: names, hashes and quotas (TOML, see 'dragoman key'), "
        "read again on change and on SIGHUP",
    )
    reflection: bool = Field(default=True, description="serve gRPC reflection")
    open_reflection: bool = Field(
        default=True, description="serve it without a key too, where keys are asked for"
    )
    golden_check: Literal["strict", "warn", "off"] = Field(
        "warn", description="what a golden sentence that comes out differently does at start"
    )
    grace_seconds: Annotated[float, Field(ge=0)] = Field(
        30.0, description="time for running requests to finish after SIGTERM"
    )
    check_integrity: bool = Field(
        default=False,
        description="for debugging: assert at every step that slots and sentences are one to one",
    )
    drain_delay_seconds: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="after SIGTERM go on serving for so long, with health NOT_SERVING, so that "
        "balancers turn away before anything is refused",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="log level")
    log_format: Literal["text", "json"] = Field(
        "text", description="lines for people, or one JSON object a line"
    )
    log_requests: Literal["failed", "all"] = Field(
        "failed", description="requests that get a log line; refusals count as served"
    )
    otlp_endpoint: str | None = Field(
        None,
        description="send OpenTelemetry traces there by gRPC, as to http://127.0.0.1:4317 "
        "(extra 'otel')",
    )
    trace_sample_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="share of requests that are traced where the caller has not decided"
    )

    @model_validator(mode="after")
    def _tls_files_go_together(self) -> Settings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            msg = "tls_certificate and tls_key go together"
            raise ValueError(msg)
        if self.tls_client_ca is not None and self.tls_certificate is None:
            msg = "tls_client_ca needs tls_certificate and tls_key"
            raise ValueError(msg)
        return self

    def lines(self) -> list[str]:
        """The effective settings, one ``name = value`` a line."""
        return [f"{name} = {value}" for name, value in self.model_dump(mode="json").items()]


def read_settings(arguments: list[str] | None = None) -> Settings:
    """Settings from flags, then environment, then defaults.

    Raises:
        SettingsFault: unknown ``DRAGOMAN_*`` name, or a value out of range.
        SystemExit: ``--help``, or an unknown flag.
    """
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | FOREIGN_NAMES
    unknown = sorted(
        name for name in os.environ if name.upper().startswith(PREFIX) and name not in known
    )
    if unknown:
        msg = f"unknown environment name {', '.join(unknown)}"
        raise SettingsFault(msg)
    try:
        return CliApp.run(Settings, cli_args=arguments if arguments is not None else [])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        msg = f"{name}: {what}" if name else what
        raise SettingsFault(msg) from error
    except SettingsError as error:
        raise SettingsFault(str(error).splitlines()[0]) from error
