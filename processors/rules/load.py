"""From rule files to a rule book, or to the list of everything that is wrong with them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from processors.kpis import (
    ExpressionError,
    Fault,
    Kpi,
    Registry,
    Scope,
    compile_condition,
    parse_duration_ms,
)
from processors.kpis.expressions import suggest
from processors.kpis.fingerprint import fingerprint
from processors.rules.cel import Condition, ConditionError, Vocabulary
from processors.rules.definition import (
    ImmediateRule,
    Proposal,
    Quorum,
    Recipient,
    Remedy,
    Rule,
    RuleBook,
    RuleGroup,
)
from processors.rules.documents import (
    ImmediateEntry,
    Located,
    MembersEntry,
    ProposalEntry,
    RuleEntry,
    read_directory,
)
from processors.rules.texts import duration_text, names_of, places_of

PERSON = "agent_id"


class RuleError(Exception):
    """The rules cannot be used; ``faults`` holds every reason, in file and line order."""

    exit_code = 1
    next_step = "correct the files named above, then `andon rules check`"

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(sorted(faults))
        super().__init__("\n".join(map(str, self.faults)))


def load_rules(directory: Path, registry: Registry) -> RuleBook:
    """Read, check and compile the rules of a directory: one a file, ``*.test.yaml`` left out.

    Raises RuleError with all faults.
    """
    faults: list[Fault] = []
    located = _unique(read_directory(directory, faults), faults)
    loader = _Loader(registry)
    rules: dict[str, Rule | ImmediateRule] = {}
    for entry in located:
        rule = loader.link(entry)
        if rule is not None:
            rules[rule.id] = rule
    windowed = {name: rule for name, rule in rules.items() if isinstance(rule, Rule)}
    groups = _groups(windowed.values())
    faults += loader.faults
    faults += _inhibition_faults(located, windowed)
    if faults:
        raise RuleError(faults)
    return RuleBook(
        rules=tuple(rules[name] for name in sorted(rules)),
        groups=tuple(groups),
        samples=frozenset((r.scope.id, s) for r in windowed.values() for s in r.samples.values()),
        fingerprint=fingerprint(sorted(rules.items())),
    )


def _unique(
    located: Sequence[Located[ProposalEntry]], faults: list[Fault]
) -> list[Located[ProposalEntry]]:
    first: dict[str, Located[ProposalEntry]] = {}
    for entry in located:
        earlier = first.setdefault(entry.entry.id, entry)
        if earlier is not entry:
            faults.append(entry.fault("id", f"defined before, in {earlier.file.name}"))
    return list(first.values())


def _groups(rules: Iterable[Rule]) -> Iterator[RuleGroup]:
    members: dict[tuple[str, int, int], list[Rule]] = {}
    for rule in rules:
        members.setdefault((rule.scope.id, rule.window_ms, rule.every_ms), []).append(rule)
    for key in sorted(members):
        own = {rule.id: rule for rule in members[key]}
        scope = members[key][0].scope
        yield RuleGroup(scope, key[1], key[2], tuple(_inhibitors_first(own)))


def _inhibitors_first(rules: Mapping[str, Rule]) -> Iterator[Rule]:
    waiting = dict(sorted(rules.items()))
    while waiting:
        ready = (r for r in waiting.values() if not waiting.keys() & {*r.inhibited_by})
        # A cycle is a fault of its own; any order will do to go on and find the other faults.
        taken = next(ready, next(iter(waiting.values())))
        yield waiting.pop(taken.id)


def _inhibition_faults(
    located: Iterable[Located[ProposalEntry]], rules: Mapping[str, Rule]
) -> Iterator[Fault]:
    names = {entry.entry.id for entry in located}
    for entry in located:
        rule = rules.get(entry.entry.id)
        for name in rule.inhibited_by if rule else ():
            other = rules.get(name)
            if name not in names:
                reason = f"found unknown rule {name}{suggest(name, sorted(names))}"
                yield entry.fault("inhibited_by", reason)
            elif rule and other and _grid(other) != _grid(rule):
                reason = f"found {name}, which has another scope, window or every"
                yield entry.fault("inhibited_by", reason)
    try:
        TopologicalSorter({r.id: r.inhibited_by for r in rules.values()}).prepare()
    except CycleError as error:
        names_of_cycle = error.args[1]
        entry = next(e for e in located if e.entry.id == names_of_cycle[0])
        yield entry.fault("inhibited_by", f"found a cycle, {' - '.join(names_of_cycle)}")


def _grid(rule: Rule) -> tuple[str, int, int]:
    return rule.scope.id, rule.window_ms, rule.every_ms


class _Loader:
    """Gives entries their meaning; what is wrong is collected, and such an entry gives no rule."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.faults: list[Fault] = []
        self.vocabularies = {s.id: Vocabulary(s.kpis) for s in registry.scopes}

    def link(self, located: Located[ProposalEntry]) -> Rule | ImmediateRule | None:
        """Return the rule, or None after its faults are noted."""
        before = len(self.faults)
        entry = located.entry
        proposal = self._proposal(located)
        rule: Rule | ImmediateRule | None
        if isinstance(entry, ImmediateEntry):
            rule = self._immediate(located, entry, proposal)
        else:
            assert isinstance(entry, RuleEntry)
            rule = self._rule(located, entry, proposal)
        return rule if len(self.faults) == before else None

    def _proposal(self, located: Located[ProposalEntry]) -> Proposal:
        entry = located.entry
        return Proposal(
            action_type=entry.action_type,
            severity=entry.severity,
            approval=entry.approval,
            recipient=Recipient(entry.recipient.role, entry.recipient.id),
            title=entry.title,
            reason=entry.reason,
            remedy=Remedy(**entry.remedy.model_dump()),
            due_after_ms=self._duration(located, "due_after", entry.due_after),
            check_after_ms=self._duration(located, "check_after", entry.check_after),
        )

    def _duration(
        self, located: Located[ProposalEntry], field: str, text: str | None
    ) -> int | None:
        if text is None:
            return None
        try:
            return parse_duration_ms(text)
        except ValueError as error:
            self._fault(located, field, str(error))
            return None

    def _fault(self, located: Located[ProposalEntry], field: str, reason: str) -> None:
        self.faults.append(located.fault(field, reason))

    def _rule(
        self, located: Located[ProposalEntry], entry: RuleEntry, proposal: Proposal
    ) -> Rule | None:
        scope = self._scope(located, entry.scope)
        if scope is None:
            return None
        conditions = _Conditions(located, self.vocabularies[scope.id], self.faults)
        when = conditions.compile("when", entry.when)
        clear = conditions.compile("clear", entry.clear) if entry.clear else None
        guards = tuple(conditions.compile_all("guards", entry.guards))
        members = entry.members or MembersEntry(by=entry.subject or scope.key)
        grid = _Grid(
            window_ms=self._duration(located, "window", entry.window),
            every_ms=self._duration(located, "every", entry.every),
            sustain_ms=self._duration(located, "sustain", entry.sustain),
            cooldown_ms=self._duration(located, "cooldown", entry.cooldown),
        )
        # What a broken condition names is unknown, so nothing can be held against it.
        named = [scope.kpis[i] for i in when.kpis] if when else scope.kpis
        self._check_rule(located, entry, scope, members.by, named, grid)
        if when is None:
            return None
        return Rule(
            id=entry.id,
            version=entry.version,
            proposal=proposal,
            scope=scope,
            window_ms=grid.window_ms or 0,
            every_ms=grid.every_ms or 0,
            subject=members.by,
            subject_scope=_scope_of(members.by, self.registry.scopes, scope.id),
            quorum=Quorum(members.at_least, members.share),
            when=when,
            clear=clear,
            guards=guards,
            minimum_n=dict(self._minimum_n(located, entry, scope, when)),
            sustain_ms=grid.sustain_ms or 0,
            cooldown_ms=grid.cooldown_ms or 0,
            inhibited_by=entry.inhibited_by,
            samples=entry.samples,
        )

    def _scope(self, located: Located[ProposalEntry], name: str) -> Scope | None:
        scopes = {scope.id: scope for scope in self.registry.scopes}
        if name not in scopes:
            known = sorted(scopes)
            reason = f"found {name}, expected one of {', '.join(known)}{suggest(name, known)}"
            self._fault(located, "scope", reason)
        return scopes.get(name)

    def _minimum_n(
        self, located: Located[ProposalEntry], entry: RuleEntry, scope: Scope, when: Condition
    ) -> Iterator[tuple[int, int]]:
        given = entry.minimum_n
        named = {scope.kpis[i].id: i for i in when.kpis}
        if isinstance(given, Mapping):
            for name in given.keys() - named.keys():
                self._fault(located, "minimum_n", f"found {name}, which `when` does not name")
        for i in when.needed:
            kpi = scope.kpis[i]
            if isinstance(given, Mapping):
                yield i, given.get(kpi.id, kpi.minimum_n)
            else:
                yield i, kpi.minimum_n if given is None else given

    def _check_rule(
        self,
        located: Located[ProposalEntry],
        entry: RuleEntry,
        scope: Scope,
        subject: Sequence[str],
        named: Sequence[Kpi],
        grid: "_Grid",
    ) -> None:
        self.faults += [
            *grid.faults(located, scope),
            *_subject_faults(located, entry, scope, subject),
            *_sample_faults(located, entry, scope, named, self.registry),
            *_person_faults(located, subject),
            *_recipient_faults(located, subject, "the subject"),
            *_template_faults(located, names_of(scope.key, named)),
        ]

    def _immediate(
        self, located: Located[ProposalEntry], entry: ImmediateEntry, proposal: Proposal
    ) -> ImmediateRule | None:
        source = self.registry.sources.get(entry.source)
        kpi = {k.id: k for k in self.registry.kpis}.get(entry.kpi)
        if not entry.immediate:
            self._fault(located, "immediate", "found false, expected true or no such field")
        if kpi is None:
            self._fault(located, "kpi", f"found unknown KPI {entry.kpi}")
        if source is None:
            known = ", ".join(self.registry.sources)
            self._fault(located, "source", f"found {entry.source}, expected one of {known}")
            return None
        try:
            expression = compile_condition(entry.where, source.schema)
        except ExpressionError as error:
            self._fault(located, "where", str(error))
            return None
        scope = _scope_of(entry.subject, self.registry.scopes, "")
        if not scope:
            found = ", ".join(entry.subject)
            self._fault(located, "subject", f"found {found}, which is the key of no scope")
        columns = frozenset(source.schema)
        self.faults += [
            *_person_faults(located, entry.subject),
            *_recipient_faults(located, columns, f"the columns of {entry.source}"),
            *_template_faults(located, columns),
        ]
        if kpi is None:
            return None
        return ImmediateRule(
            id=entry.id,
            version=entry.version,
            proposal=proposal,
            source=entry.source,
            where=entry.where,
            subject=entry.subject,
            subject_scope=scope,
            kpi=kpi,
            expression=expression.alias(entry.id),
        )


class _Conditions:
    """Compiles the conditions of one entry, noting their faults."""

    def __init__(
        self, located: Located[ProposalEntry], vocabulary: Vocabulary, faults: list[Fault]
    ) -> None:
        self.located = located
        self.vocabulary = vocabulary
        self.faults = faults

    def compile(self, field: str, text: str) -> Condition | None:
        try:
            return self.vocabulary.compile(text)
        except ConditionError as error:
            self.faults.append(self.located.fault(field, str(error)))
            return None

    def compile_all(self, field: str, texts: Iterable[str]) -> Iterator[Condition]:
        for text in texts:
            condition = self.compile(field, text)
            if condition is not None:
                yield condition


def _scope_of(columns: Sequence[str], scopes: Iterable[Scope], otherwise: str) -> str:
    # An agent with their team is the subject of scope agent, whose key the team belongs to.
    wanted = set(columns)
    matches: list[Callable[[Scope], bool]] = [
        lambda scope: set(scope.key) == wanted,
        lambda scope: {*scope.key, *scope.attributes} == wanted,
    ]
    scopes = tuple(scopes)
    for is_match in matches:
        for scope in scopes:
            if is_match(scope):
                return scope.id
    return otherwise


@dataclass(frozen=True, slots=True)
class _Grid:
    """The times of a rule; None is not given, or a fault already noted."""

    window_ms: int | None
    every_ms: int | None
    sustain_ms: int | None
    cooldown_ms: int | None

    def faults(self, located: Located[ProposalEntry], scope: Scope) -> Iterator[Fault]:
        every_ms = self.every_ms
        if every_ms is None:
            return
        if every_ms % scope.pane_ms:
            expected = f"a multiple of the pane of {scope.id}, {duration_text(scope.pane_ms)}"
            yield located.fault("every", f"found {duration_text(every_ms)}, expected {expected}")
        spans = {"window": self.window_ms, "sustain": self.sustain_ms, "cooldown": self.cooldown_ms}
        for field, span_ms in spans.items():
            if span_ms is not None and span_ms % every_ms:
                expected = f"a multiple of every, {duration_text(every_ms)}"
                yield located.fault(field, f"found {duration_text(span_ms)}, expected {expected}")


def _subject_faults(
    located: Located[ProposalEntry], entry: RuleEntry, scope: Scope, subject: Sequence[str]
) -> Iterator[Fault]:
    key = scope.key
    field = "members" if entry.members else "subject"
    if entry.members and entry.subject:
        yield located.fault("subject", "found beside members, whose `by` names the subject")
    unknown = [column for column in subject if column not in key]
    if unknown:
        expected = f"columns of the key of {scope.id}: {', '.join(key)}"
        yield located.fault(field, f"found {', '.join(unknown)}, expected {expected}")
    if len(set(subject)) < len(subject):
        yield located.fault(field, "found a column twice")
    if key and key[0] not in subject:
        # Keys are spread over workers by the first column: no worker sees all of the subject.
        reason = f"found {', '.join(subject)}, expected {key[0]} among them"
        yield located.fault(field, f"{reason}: the keys of {scope.id} lie with it")


def _sample_faults(
    located: Located[ProposalEntry],
    entry: RuleEntry,
    scope: Scope,
    named: Sequence[Kpi],
    registry: Registry,
) -> Iterator[Fault]:
    for kpi_id, sample_id in entry.samples.items():
        sample = registry.samples.get(sample_id)
        if kpi_id not in {kpi.id for kpi in named}:
            yield located.fault("samples", f"found {kpi_id}, which `when` does not name")
        if sample is None:
            reason = f"found unknown sample {sample_id}"
            yield located.fault("samples", reason + suggest(sample_id, sorted(registry.samples)))
        elif sample.source not in scope.sources:
            reason = f"found {sample_id} of {sample.source}, which {scope.id} has not"
            yield located.fault("samples", reason)


def _person_faults(located: Located[ProposalEntry], subject: Sequence[str]) -> Iterator[Fault]:
    if PERSON in subject and located.entry.approval != "SUGGEST":
        expected = "SUGGEST: about a person, a person decides"
        yield located.fault("approval", f"found {located.entry.approval}, expected {expected}")


def _recipient_faults(
    located: Located[ProposalEntry], columns: Iterable[str], words: str
) -> Iterator[Fault]:
    column = located.entry.recipient.id
    if column is not None and column not in columns:
        yield located.fault("recipient", f"id: found {column}, expected a column of {words}")


def _template_faults(located: Located[ProposalEntry], names: frozenset[str]) -> Iterator[Fault]:
    for field in ("title", "reason"):
        for name in places_of(getattr(located.entry, field)):
            if name not in names:
                reason = f"found unknown name {{{name}}}{suggest(name, sorted(names))}"
                yield located.fault(field, reason)
