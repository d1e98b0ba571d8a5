"""The contact centre of the generated day: who works when, what arrives, and what goes wrong."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from streams.sources.events import seeded

ZONE: Final = "Europe/Berlin"
HOUR_MS: Final = 3_600_000
MINUTE_MS: Final = 60_000

QUESTIONS: Final = (
    "greeting_and_sign_off",
    "first_name",
    "clear_language",
    "empathy",
    "brand_voice",
    "tone",
    "resolution",
    "policy_knowledge",
    "guidelines",
    "feedback_chance",
)
CRITICAL_QUESTION: Final = "guidelines"


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue: opening hours are hours of the local day, volumes are contacts a day."""

    queue_id: str
    channels: Mapping[str, float]
    opens: int
    closes: int
    contacts: int
    issues: Mapping[str, float]
    talk_s: float
    after_contact_work_s: float
    patience_s: float
    capacity: int
    self_service: float = 0.0
    callbacks: bool = False


@dataclass(frozen=True, slots=True)
class Agent:
    """One person: a team, the queues of the team in the order they come first, and a shift."""

    agent_id: str
    team_id: str
    queue_ids: tuple[str, ...]
    starts: int
    ends: int


@dataclass(frozen=True, slots=True)
class Planted:
    """A problem put into the day, and the action it has to lead to.

    ``subject`` names the key columns that the action's subject must hold. ``withdrawn`` says that
    it was none, and that its action has to be taken back.
    """

    action_type: str
    rule_id: str
    subject: Mapping[str, str]
    withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class Problems:
    """What a seed plants, and where: no two problems share a team, an agent or an issue."""

    coaching_agent: str
    coaching_question: str
    training_team: str
    training_agents: tuple[str, ...]
    training_question: str
    unresolved_issue: str
    passed_around_issue: str
    slow_wrap_up_team: str
    praised_agent: str
    failed_agents: tuple[str, ...]

    @property
    def mistaken_agent(self) -> str:
        """The agent of ``failed_agents`` whose evaluation is corrected later."""
        return self.failed_agents[-1]


QUEUES: Final = (
    Queue(
        "billing",
        {"VOICE": 1.0},
        opens=8,
        closes=20,
        contacts=1300,
        issues={"invoice": 5, "payment-failed": 3, "refund": 2, "tariff-change": 2},
        talk_s=225,
        after_contact_work_s=30,
        patience_s=200,
        capacity=10,
        self_service=0.06,
        callbacks=True,
    ),
    Queue(
        "technical-support",
        {"VOICE": 0.95, "VIDEO": 0.05},
        opens=7,
        closes=22,
        contacts=1020,
        issues={"no-connection": 4, "slow-connection": 3, "router-setup": 6, "number-transfer": 1},
        talk_s=285,
        after_contact_work_s=38,
        patience_s=260,
        capacity=9,
        self_service=0.09,
        callbacks=True,
    ),
    Queue(
        "orders",
        {"CHAT": 0.7, "MESSAGING": 0.3},
        opens=8,
        closes=20,
        contacts=500,
        issues={"order-status": 5, "delivery-delay": 3, "wrong-item": 2},
        talk_s=240,
        after_contact_work_s=25,
        patience_s=170,
        capacity=20,
    ),
    Queue(
        "retention",
        {"VOICE": 1.0},
        opens=9,
        closes=18,
        contacts=240,
        issues={"cancellation": 3, "price-complaint": 2},
        talk_s=330,
        after_contact_work_s=45,
        patience_s=240,
        capacity=5,
        callbacks=True,
    ),
    Queue(
        "account-changes",
        {"EMAIL": 0.85, "SOCIAL": 0.15},
        opens=8,
        closes=18,
        contacts=300,
        issues={"address-change": 3, "contract-copy": 2, "password-reset": 2},
        talk_s=260,
        after_contact_work_s=20,
        patience_s=3 * 3600,
        capacity=200,
    ),
)

_TEAMS: Final[Mapping[str, tuple[str, ...]]] = {
    "amber": ("billing",),
    "birch": ("billing",),
    "cedar": ("technical-support",),
    "dune": ("technical-support",),
    "elm": ("orders",),
    "fir": ("retention", "account-changes"),
}
_SHIFTS: Final[Mapping[str, tuple[tuple[int, int], tuple[int, int]]]] = {
    "cedar": ((7, 15), (13, 22)),
    "dune": ((7, 15), (13, 22)),
    "fir": ((8, 16), (10, 18)),
}
AGENTS_PER_TEAM: Final = 10


def agents() -> tuple[Agent, ...]:
    """Return the sixty agents; the odd numbers of each team start early, the even ones late."""
    return tuple(
        Agent(
            f"{team_id}-{number:02d}",
            team_id,
            queue_ids,
            *_SHIFTS.get(team_id, ((8, 16), (12, 20)))[(number + 1) % 2],
        )
        for team_id, queue_ids in _TEAMS.items()
        for number in range(1, AGENTS_PER_TEAM + 1)
    )


def problems(seed: int) -> Problems:
    """Return what ``seed`` plants, and where."""
    rng = seeded(seed, "problems")
    # After-contact work is judged from thirty contacts an hour on: the teams of the largest queue
    # still handle as many when each of them takes twice as long.
    slow, billing = rng.sample(["amber", "birch"], 2)
    training, coaching, praised, failing = rng.sample([billing, "cedar", "dune", "elm"], 4)
    early = range(1, AGENTS_PER_TEAM + 1, 2)
    coaching_question, training_question = rng.sample(
        [question for question in QUESTIONS if question != CRITICAL_QUESTION], 2
    )
    return Problems(
        coaching_agent=f"{coaching}-{rng.choice(early):02d}",
        coaching_question=coaching_question,
        training_team=training,
        training_agents=tuple(f"{training}-{number:02d}" for number in rng.sample(early, 4)),
        training_question=training_question,
        unresolved_issue=rng.choice(["invoice", "router-setup"]),
        passed_around_issue=rng.choice(["payment-failed", "number-transfer"]),
        slow_wrap_up_team=slow,
        praised_agent=f"{praised}-{rng.choice(early):02d}",
        failed_agents=tuple(f"{failing}-{number:02d}" for number in rng.sample(early, 2)),
    )


def planted(seed: int) -> list[Planted]:
    """Return every problem that the day of ``seed`` holds, with the action it has to lead to."""
    put = problems(seed)
    return [
        Planted("COACHING", "coaching-item", {"agent_id": put.coaching_agent}),
        Planted("TRAINING", "training-item", {"team_id": put.training_team}),
        Planted("KNOWLEDGE_UPDATE", "knowledge-resolution", {"issue_id": put.unresolved_issue}),
        Planted("PROCESS_REVIEW", "process-transfers", {"issue_id": put.passed_around_issue}),
        Planted(
            "COMMUNICATION",
            "communication-after-contact-work",
            {"team_id": put.slow_wrap_up_team},
        ),
        Planted("RECOGNITION", "recognition-csat-quality", {"agent_id": put.praised_agent}),
        *(
            Planted(
                "COACHING",
                "compliance-auto-fail",
                {"agent_id": agent_id},
                withdrawn=agent_id == put.mistaken_agent,
            )
            for agent_id in put.failed_agents
        ),
    ]
