"""What was released, and what it costs: differential-privacy bookkeeping without ML.

Events describe mechanisms, accountants price them, schedules say which events count for which
adversary, and the ledger records every spend before it happens.
"""

from accounting.accountants import Accounting, EpsilonCurve, EpsilonPair, Slack, epsilon_pair
from accounting.adversaries import Adversary, ReleaseSchedule
from accounting.audit import (
    AuditBound,
    gaussian_fit_bound,
    one_run_bound,
    one_run_gaussian_bound,
    rates_bound,
)
from accounting.calibrate import Certificate, calibrate_noise_multiplier
from accounting.closed_form import gaussian_epsilon, participation_epsilon
from accounting.discrete_rdp import unconditional_epsilon
from accounting.errors import (
    AccountingError,
    BudgetExceeded,
    CalibrationFailed,
    InvalidPrivacyParameter,
    LedgerCorrupted,
    LedgerMisuse,
    UnsupportedAdjacency,
    UnsupportedMechanism,
)
from accounting.events import (
    CappedPoissonGaussianRelease,
    DiscreteGaussianSharesRelease,
    Event,
    GaussianRelease,
    GroupPoissonGaussianRelease,
    PoissonGaussianRelease,
    Repeated,
    SkellamRelease,
    UnprotectedRelease,
    decode_event,
    encode_event,
)
from accounting.integer_divergences import skellam_divergence
from accounting.labels import LabelCost, RandomizedLabels, label_cost
from accounting.ledger import Ledger, SpendReceipt
from accounting.ledger_format import LedgerHeader
from accounting.ledger_verdict import LedgerRecord, LedgerVerdict, read_ledger, verify_ledger
from accounting.membership import MembershipReport, lane_scores, membership_report
from accounting.modes import Mode
from accounting.noise_shares import GridNoise, NoiseShares
from accounting.pld import pld_epsilon
from accounting.rdp import RDP_ORDERS, RdpFilter, rdp_epsilon
from accounting.receipts import Receipt, receipt_message
from accounting.record_copies import RecordCopies, record_releases
from accounting.schedule_checks import IntegerNoise
from accounting.schedule_format import decode_schedule, encode_schedule
from accounting.secret_cohort import SecretCohort, shortfall_probability
from accounting.selection import (
    RunSpend,
    all_runs_epsilon,
    best_run_epsilon,
    selection_epsilon,
)
from accounting.skellam_shares import SMALLEST_SKELLAM_STDDEV_STEPS, SkellamNoise
from accounting.statement import guarantee
from accounting.units import Adjacency, Budget, PrivacyUnit, default_delta

__all__ = [
    "RDP_ORDERS",
    "SMALLEST_SKELLAM_STDDEV_STEPS",
    "Accounting",
    "AccountingError",
    "Adjacency",
    "Adversary",
    "AuditBound",
    "Budget",
    "BudgetExceeded",
    "CalibrationFailed",
    "CappedPoissonGaussianRelease",
    "Certificate",
    "DiscreteGaussianSharesRelease",
    "EpsilonCurve",
    "EpsilonPair",
    "Event",
    "GaussianRelease",
    "GridNoise",
    "GroupPoissonGaussianRelease",
    "IntegerNoise",
    "InvalidPrivacyParameter",
    "LabelCost",
    "Ledger",
    "LedgerCorrupted",
    "LedgerHeader",
    "LedgerMisuse",
    "LedgerRecord",
    "LedgerVerdict",
    "MembershipReport",
    "Mode",
    "NoiseShares",
    "PoissonGaussianRelease",
    "PrivacyUnit",
    "RandomizedLabels",
    "RdpFilter",
    "Receipt",
    "RecordCopies",
    "ReleaseSchedule",
    "Repeated",
    "RunSpend",
    "SecretCohort",
    "SkellamNoise",
    "SkellamRelease",
    "Slack",
    "SpendReceipt",
    "UnprotectedRelease",
    "UnsupportedAdjacency",
    "UnsupportedMechanism",
    "all_runs_epsilon",
    "best_run_epsilon",
    "calibrate_noise_multiplier",
    "decode_event",
    "decode_schedule",
    "default_delta",
    "encode_event",
    "encode_schedule",
    "epsilon_pair",
    "gaussian_epsilon",
    "gaussian_fit_bound",
    "guarantee",
    "label_cost",
    "lane_scores",
    "membership_report",
    "one_run_bound",
    "one_run_gaussian_bound",
    "participation_epsilon",
    "pld_epsilon",
    "rates_bound",
    "rdp_epsilon",
    "read_ledger",
    "receipt_message",
    "record_releases",
    "selection_epsilon",
    "shortfall_probability",
    "skellam_divergence",
    "unconditional_epsilon",
    "verify_ledger",
]
