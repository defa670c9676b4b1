"""Looks whether this host can serve, and what of it falls short: `seqserve doctor`."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields
from enum import StrEnum
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

import onnxruntime
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from seqserve import artifact
from seqserve.errors import ContractError
from seqserve_server import cores, memory, options
from seqserve_server.errors import CannotStart
from seqserve_server.models import sessions
from seqserve_server.models.loading import RUN_BYTES
from seqserve_server.models.proving import Prover
from seqserve_server.models.trust import Trust
from seqserve_server.options import ExecutionProvider, Transport
from seqserve_server.processes import metrics_address
from seqserve_server.security import access, tls
from seqserve_server.settings import Settings
from seqserve_server.transports import transport

CPUINFO = Path("/proc/cpuinfo")

_DISTRIBUTION = "seqserve"
_MIB = 1 << 20
_VALUE_BYTES = 4


class Outcome(StrEnum):
    """What a check came to."""

    OK = "ok"
    WARNING = "warning"
    """It will serve, but slower or less than it could; or nothing can be said."""
    FAILED = "failed"
    """It will not serve, or not all of it."""


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    """What was looked at."""
    outcome: Outcome
    found: str
    """What is there."""
    advice: str = ""
    """What to do, unless all is well."""

    def __str__(self) -> str:
        """A line for people."""
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.outcome.upper():<8} {self.check}: {self.found}{advice}"


@dataclass(frozen=True)
class Plan:
    """What is to be served, and how: what `Settings` calls the same."""

    repository: Path | None = None
    """None checks the host alone."""
    address: str = options.ADDRESS
    metrics_address: str = ""
    """Empty for none."""
    processes: int = options.PROCESSES
    lanes: int = field(default_factory=cores.granted)
    transport: Transport = Transport.AUTO
    insecure: bool = False
    max_message_bytes: int = options.MAX_MESSAGE_BYTES
    max_request_steps: int = options.MAX_REQUEST_STEPS
    max_queue_steps: int = options.MAX_QUEUE_STEPS
    max_connection_age_s: float = options.MAX_CONNECTION_AGE_S
    max_connection_idle_s: float = options.MAX_CONNECTION_IDLE_S
    execution_provider: ExecutionProvider = ExecutionProvider.CPU
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    access_file: Path | None = None
    trusted_keys: Path | None = None


def examine(plan: Plan) -> Iterator[Finding]:
    """Everything that can be known before a server is started; each found when it is asked for."""
    yield python()
    yield from libraries()
    yield telemetry()
    yield from providers(plan.execution_provider)
    yield vectors()
    yield granted_cores(cores.quota(), os.cpu_count() or 1, cores.granted())
    yield granted_memory(memory.granted(), memory.host(), needed_memory(plan))
    finding, settings = _settings(plan)
    yield finding
    yield native_transport(
        plan.transport, grpcio_only=settings is not None and settings.grpcio_only
    )
    yield port(plan.address)
    if plan.metrics_address:
        # Where the settings cannot be, there may be no number to count from.
        for number in range(1, plan.processes + 1 if settings else 2):
            yield port(metrics_address(plan.metrics_address, number))
    yield from credentials(plan)
    yield from models(plan.repository, plan.execution_provider, plan.trusted_keys)


def python() -> Finding:
    """The interpreter, against what this distribution asks for."""
    needed = metadata.metadata(_DISTRIBUTION)["Requires-Python"]
    version = platform.python_version()
    found = f"{platform.python_implementation()} {version} on {platform.platform()}"
    if SpecifierSet(needed).contains(version, prereleases=True):
        return Finding("Python", Outcome.OK, found)
    return Finding("Python", Outcome.FAILED, found, f"{needed} is needed")


def libraries(extra: str = "server") -> Iterator[Finding]:
    """Each library that the server stands on, against the versions that it was tested with."""
    needed: dict[str, Requirement] = {}
    for line in metadata.requires(_DISTRIBUTION) or ():
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        # The distribution may ask for one version, and the extra for less.
        known = needed.setdefault(requirement.name, requirement)
        known.specifier &= requirement.specifier
    for requirement in needed.values():
        yield _library(requirement)


def _library(requirement: Requirement) -> Finding:
    install = f"pip install '{requirement.name}{requirement.specifier}'"
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return _absent(requirement, install)
    if requirement.specifier.contains(version, prereleases=True):
        return Finding(requirement.name, Outcome.OK, version)
    found = f"{version} is outside of {requirement.specifier}"
    return Finding(requirement.name, Outcome.WARNING, found, install)


def _absent(requirement: Requirement, install: str) -> Finding:
    # onnxruntime is published under other names too, for other providers: onnxruntime-gpu.
    if find_spec(requirement.name.replace("-", "_")) is not None:
        return Finding(requirement.name, Outcome.OK, "from a package of another name")
    return Finding(requirement.name, Outcome.FAILED, "is not installed", install)


def telemetry() -> Finding:
    """Whether onnxruntime was told to send nothing when it was imported."""
    value = os.environ.get("ORT_DISABLE_TELEMETRY")
    if value == "1":
        return Finding("telemetry", Outcome.OK, "off (ORT_DISABLE_TELEMETRY=1)")
    found = f"onnxruntime may send it: ORT_DISABLE_TELEMETRY is {value!r}"
    return Finding("telemetry", Outcome.FAILED, found, "set it to 1, or leave it unset")


def providers(asked: ExecutionProvider) -> Iterator[Finding]:
    """Whether what models can be run on starts, and what was asked for is among it."""
    installed = onnxruntime.get_available_providers()
    for name in (sessions.CPU, sessions.CUDA):
        if name in installed:
            yield _provider(name)
    try:
        sessions.opener(asked)
    except CannotStart as error:
        found = f"onnxruntime {onnxruntime.__version__} has {', '.join(installed)}"
        yield Finding("execution provider", Outcome.FAILED, found, str(error))


def _provider(name: str) -> Finding:
    try:
        started = sessions.starts(name)
    except Exception as error:  # onnxruntime's errors have no base of their own
        return Finding(name, Outcome.FAILED, f"does not start: {error}", "install onnxruntime anew")
    if started:
        return Finding(name, Outcome.OK, "starts")
    advice = "onnxruntime's messages say why; it is not used unless asked for"
    return Finding(name, Outcome.WARNING, "does not start on this host", advice)


def vectors(cpuinfo: Path = CPUINFO) -> Finding:
    """How wide the processor computes, which is what its speed is made of."""
    try:
        pairs = [line.partition(":") for line in cpuinfo.read_text().splitlines()]
    except OSError:
        return Finding("vectors", Outcome.OK, f"unknown: {cpuinfo} is not there")
    lines = {name.strip(): value.strip() for name, _, value in pairs}
    flags = set(lines.get("flags", lines.get("Features", "")).split())
    name = lines.get("model name", platform.machine())
    for level, needed in {
        "AVX-512": {"avx512f", "avx512dq", "avx512bw", "avx512vl"},
        "AVX2": {"avx2", "fma"},
        "NEON": {"asimd"},
    }.items():
        if needed <= flags:
            return Finding("vectors", Outcome.OK, f"{level} ({name})")
    if not flags:
        return Finding("vectors", Outcome.OK, f"unknown ({name})")
    found = f"no AVX2 ({name})"
    return Finding("vectors", Outcome.WARNING, found, "expect a fraction of the speed")


def granted_cores(quota: float, host: int, lanes: int) -> Finding:
    """The cores that the server may keep busy, against those of the host.

    Args:
        quota: Of the cgroup, in cores; infinite where there is none.
        host: Cores of the host.
        lanes: Whole cores granted.
    """
    found = f"{lanes} of the host's {host}, hence {lanes} {'lane' if lanes == 1 else 'lanes'}"
    if quota < 1:
        advice = "runs will be stopped in the middle; grant a whole core"
        return Finding("cores", Outcome.WARNING, f"a quota of {quota:g} cores", advice)
    if quota < host and quota != int(quota):
        advice = f"a lane takes a whole core, so {quota % 1:g} of one is left over"
        return Finding("cores", Outcome.WARNING, f"a quota of {quota:g}: {found}", advice)
    return Finding("cores", Outcome.OK, found)


@dataclass(frozen=True)
class NeededMemory:
    """What a server's processes may take beside the models, in bytes."""

    runs: int
    """A batch in each lane."""
    messages: int
    """The longest request, as bytes and as values."""
    queue: int
    """A full one, of the widest model."""


def needed_memory(plan: Plan) -> NeededMemory:
    """By the settings, and the manifests that can be read."""
    return NeededMemory(
        plan.processes * plan.lanes * RUN_BYTES,
        plan.processes * 2 * plan.max_message_bytes,
        plan.processes * plan.max_queue_steps * _most_features(plan.repository) * _VALUE_BYTES,
    )


def _most_features(repository: Path | None) -> int:
    """Of a step, among all versions; 0 where there are none, or none that can be read."""
    if repository is None:
        return 0
    features = [0]
    with suppress(OSError):  # see `models`
        for name in artifact.models(repository):
            for version in artifact.versions(repository, name):
                with suppress(ContractError, OSError):
                    manifest = artifact.read_manifest(
                        artifact.version_path(repository, name, version)
                    )
                    features.append(manifest.input.features.size)
    return max(features)


def granted_memory(granted: int, host: int, needed: NeededMemory) -> Finding:
    """The memory that the server may have, against what it may take.

    Args:
        granted: By the cgroup, in bytes.
        host: Of the host, in bytes.
        needed: Beside the models.
    """
    found = f"{granted // _MIB:,} MiB of the host's {host // _MIB:,}"
    parts = {
        "runs": needed.runs,
        "the longest request": needed.messages,
        "a full queue": needed.queue,
    }
    total = sum(parts.values())
    if granted >= total:
        return Finding("memory", Outcome.OK, found)
    listed = ", ".join(f"{name} {size // _MIB:,}" for name, size in parts.items())
    advice = (
        f"{total // _MIB:,} MiB may be taken beside the models ({listed}): grant more, or lower "
        "--lanes, --processes, --max-message-bytes or --max-queue-steps"
    )
    return Finding("memory", Outcome.WARNING, found, advice)


def _settings(plan: Plan) -> tuple[Finding, Settings | None]:
    told = {each.name: getattr(plan, each.name) for each in fields(plan)}
    try:
        settings = Settings(**told | {"repository": plan.repository or Path()})
    except CannotStart as error:
        return Finding("settings", Outcome.FAILED, str(error)), None
    return Finding("settings", Outcome.OK, "a server would take them"), settings


def native_transport(asked: Transport, *, grpcio_only: bool = False) -> Finding:
    """Whether calls can come by pygrpc-native, at a fraction of the CPU that grpcio takes.

    Args:
        asked: What was asked for.
        grpcio_only: Whether something was asked for besides that the native one cannot do.
    """
    try:
        chosen = transport.resolve(asked, grpcio_only=grpcio_only)
        if chosen is Transport.NATIVE:
            import_module("pygrpc_native")
    except (CannotStart, ImportError) as error:
        return Finding("transport", Outcome.FAILED, "not native", f"{error}; or --transport grpcio")
    if chosen is Transport.NATIVE or asked is Transport.GRPCIO:
        return Finding("transport", Outcome.OK, chosen)
    if grpcio_only:
        found = f"{chosen}, for TLS or connections that end by their age"
        return Finding("transport", Outcome.OK, found)
    advice = "it takes more CPU a call; pygrpc-native has a wheel for Linux and macOS"
    return Finding("transport", Outcome.WARNING, f"{chosen}: no pygrpc-native here", advice)


def port(address: str) -> Finding:
    """Whether the address can be listened on."""
    try:
        host, number = transport.split_address(address)
        transport.check_free(host, number)
    except CannotStart as error:
        return Finding(f"port {address}", Outcome.FAILED, "is no address", str(error))
    except OSError as error:
        advice = "stop what has it, or take another"
        return Finding(f"port {address}", Outcome.FAILED, error.strerror or str(error), advice)
    return Finding(f"port {address}", Outcome.OK, "is free")


def credentials(plan: Plan) -> Iterator[Finding]:
    """The files that say who is trusted: whether a server could take them."""
    if plan.access_file is not None:
        yield _file(plan.access_file, access.watched)
    if plan.trusted_keys is not None:
        yield _file(plan.trusted_keys, Trust)
    if plan.tls_certificate is not None and plan.tls_key is not None:
        key, ca = plan.tls_key, plan.tls_client_ca
        yield _file(plan.tls_certificate, lambda path: tls.watched(path, key, ca), "TLS")


def _file(path: Path, take: Callable[[Path], object], name: str = "") -> Finding:
    try:
        take(path)
    except CannotStart as error:
        return Finding(name or str(path), Outcome.FAILED, str(error))
    return Finding(name or str(path), Outcome.OK, "can be taken")


def models(
    repository: Path | None, asked: ExecutionProvider, trusted_keys: Path | None = None
) -> Iterator[Finding]:
    """Every version: its signature where one is asked for, its sha256, and its golden set here."""
    if repository is None:
        found = "not looked at: bit-equality on this processor is shown by a model's golden set"
        yield Finding("models", Outcome.WARNING, found, "name a REPOSITORY")
        return
    try:
        names = artifact.models(repository)
        versions = [(name, each) for name in names for each in artifact.versions(repository, name)]
    except OSError as error:
        at = error.filename or repository
        advice = _rights(at) if isinstance(error, PermissionError) else ""
        yield Finding("models", Outcome.FAILED, f"{at}: {error.strerror}", advice)
        return
    if not versions:
        found = f"{repository} has none"
        yield Finding("models", Outcome.FAILED, found, "publish one with seqserve train")
    try:
        trust = Trust(trusted_keys) if trusted_keys else None
    except CannotStart:
        return  # see `credentials`
    prover = Prover(asked)
    try:
        for name, version in versions:
            yield _version(prover, trust, artifact.version_path(repository, name, version))
    finally:
        prover.rest()


def _version(prover: Prover, trust: Trust | None, folder: Path) -> Finding:
    check = f"{folder.parent.name} version {folder.name}"
    try:
        if trust is not None:
            trust.check(artifact.manifest_bytes(folder), folder)
        proof = prover.attempt(folder).proof
    except ContractError as error:
        return Finding(check, Outcome.FAILED, str(error), _advice(folder))
    except Exception as error:  # whatever it is, the next version is looked at as well
        return Finding(check, Outcome.FAILED, f"{type(error).__name__}: {error}")
    company = "the same bit for bit in any company" if proof.bit_equal else "within the tolerance"
    return Finding(
        check,
        Outcome.OK,
        f"{'signature and sha256 hold' if trust else 'sha256 holds'}; {proof.sequences} golden "
        f"sequences in {proof.cases} cases, {company}, at "
        f"most {proof.max_difference:.1e} from torch",
    )


def _advice(folder: Path) -> str:
    """A version that this user may not read need not be damaged."""
    shut = [each for each in (folder.parent, folder) if not os.access(each, os.R_OK | os.X_OK)]
    shut = shut or [
        each for each in folder.iterdir() if each.is_file() and not os.access(each, os.R_OK)
    ]
    return _rights(shut[0]) if shut else "publish it again, or remove it"


def _rights(path: str | Path) -> str:
    return f"let the user who serves (here uid {os.getuid()}) read {path}"
