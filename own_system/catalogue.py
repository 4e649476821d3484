"""Every kind of finding: how grave it is, what it means and what to do. docs/own_system.md shows this table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Kind:
    """``error``: nothing sound can be learned before it is mended. ``warning``: look at it, then decide."""

    level: Level
    meaning: str
    advice: str


_ERROR: Level = "error"
_WARNING: Level = "warning"

_READING = {
    "unreadable_file": Kind(
        _ERROR,
        "The file cannot be read as declared.",
        "Correct its path, format, separator or header in the declaration.",
    ),
    "swapped_files": Kind(
        _ERROR,
        "The columns of this role stand in the file that is declared for another one.",
        "Exchange the paths in the declaration.",
    ),
    "missing_column": Kind(
        _ERROR, "A declared column is not in the file.", "Correct the name on the right of the mapping (ours: yours)."
    ),
    "empty_value": Kind(
        _ERROR,
        "A value that every row needs is missing.",
        "Fill it in, give missing ones a name of their own such as 'unknown', or leave the rows out.",
    ),
    "not_a_number": Kind(
        _ERROR,
        "Text stands where a number is needed; decimal commas and thousands separators are text, too.",
        "Write numbers as 1234.5, or correct the mapping.",
    ),
    "not_a_category": Kind(_ERROR, "The value cannot be a category.", "Write it as text or a number."),
    "not_a_time": Kind(
        _ERROR,
        "The value is no time in the declared format and zone.",
        "Write ISO 8601, or declare time_format; check timezone where clocks skip or repeat an hour.",
    ),
    "out_of_range": Kind(
        _ERROR,
        "The number is outside the range that its column can have.",
        "Correct the rows or the unit; negative: {column: clip} counts noise below 0 as 0.",
    ),
    "unusable_numbers": Kind(
        _ERROR,
        "The numbers cannot be learned from together: too large for single precision, or a few drown all others.",
        "Correct the rows that stand out, or use another unit or the logarithm.",
    ),
    "duplicate_rows": Kind(
        _ERROR,
        "Rows are equal in every declared column: parts were exported twice, or a join repeated them.",
        "Remove the copies; they count revenue twice and make intervals too narrow.",
    ),
}

_ACTIONS = {
    "undeclared_action": Kind(
        _ERROR,
        "A value was logged that the declaration does not know.",
        "Declare it among the values of its sub-action, or correct the column.",
    ),
    "unlogged_action": Kind(
        _WARNING,
        "A declared value was never logged: what it is worth cannot be learned.",
        "Remove it from the declaration, or explore it before training.",
    ),
    "rare_action": Kind(
        _WARNING,
        "A declared value has too few rows to tell what it is worth.",
        "Explore it more, or remove it from the declaration.",
    ),
    "one_action": Kind(
        _ERROR,
        "All rows took the same value: nothing was tried beside it, so nothing can be learned of the others.",
        "Explore: give every value at least a few percent of the requests for some days.",
    ),
    "no_exploration": Kind(
        _ERROR,
        "The state columns foretell this sub-action almost surely: its effect cannot be told from the state's.",
        "Explore: take a random value in a few percent of the requests of every state.",
    ),
    "thin_overlap": Kind(
        _WARNING,
        "In a part of the states one value is taken almost always: there its alternatives are guessed.",
        "Explore in these states, or expect no gain from them.",
    ),
    "uncovered_group": Kind(
        _WARNING,
        "A value was never taken in a group where it should have been seen often.",
        "Explore it there, or forbid it there when serving.",
    ),
}

_PROPENSITIES = {
    "propensity_range": Kind(
        _ERROR,
        "A propensity is a probability above 0 and at most 1; the taken action cannot have had none.",
        "Log the probability of the action that was taken, at the time it was taken; divide percent by 100.",
    ),
    "propensity_sum": Kind(
        _ERROR,
        "In one state the propensities of different joint actions sum to more than 1.",
        "Log the probability of the joint action: the product over all sub-actions, not that of one of them.",
    ),
    "propensity_too_small": Kind(
        _ERROR,
        "The propensities are smaller than the actions are frequent: estimates weighted by them are too high.",
        "Log the probability under the policy that really served, with all its sub-actions.",
    ),
    "propensity_uninformative": Kind(
        _ERROR,
        "Counting actions by state foretells them better than the logged propensities: these are not those that served.",
        "Log the probability of the taken action under the serving policy, or declare propensity: null.",
    ),
    "propensity_misplaced": Kind(
        _ERROR,
        "The propensities do not go with how often actions are taken; they look like those of other rows.",
        "Check the join that brought them into the log, or declare propensity: null.",
    ),
    "missing_support": Kind(
        _WARNING,
        "By the propensities, the log never takes a part of the joint actions.",
        "Judge only policies that stay within the log's actions, or explore the others.",
    ),
}

_STATES = {
    "constant_column": Kind(
        _WARNING, "The column has one value: it tells nothing apart.", "Leave it out of the declaration."
    ),
    "identifier_column": Kind(
        _WARNING,
        "Nearly every row has a value of its own, like an identifier: it cannot generalise.",
        "Leave the column out, or group its values.",
    ),
    "too_many_states": Kind(
        _WARNING,
        "Hardly a state occurs twice: decisions lean on the columns' separate effects alone.",
        "Leave out or coarsen the columns with the most values.",
    ),
    "variant_spellings": Kind(
        _WARNING, "Values differ in case or blanks alone: one category is learned as several.", "Unify their spelling."
    ),
    "placeholder_value": Kind(
        _WARNING,
        "One number far from all others occurs often, like a placeholder for unknown.",
        "Make it a category of its own, or fill in a usual value.",
    ),
    "redundant_columns": Kind(_WARNING, "Two columns say the same.", "Leave one of them out."),
    "leaking_state": Kind(
        _ERROR,
        "The column tells whether the request paid: it was not known when the request came.",
        "Leave it out of state; a result or side column may hold it.",
    ),
}

_REVENUE = {
    "flat_revenue": Kind(
        _ERROR,
        "All requests earned the same, or nothing: there is nothing to learn.",
        "Correct the column, or join revenue to the log.",
    ),
    "sparse_revenue": Kind(
        _WARNING,
        "Very few requests paid: effects of actions drown in luck.",
        "Take a longer log, or declare a side column that says more, such as the ranker's predicted value.",
    ),
    "dominant_payment": Kind(
        _WARNING,
        "One payment is a large part of all revenue: a slip of the unit, or luck that will not come again.",
        "Check the row; correct or leave it out.",
    ),
    "heavy_tail": Kind(
        _WARNING,
        "Payments have so heavy a tail that their mean is ruled by those not yet seen.",
        "Learn from capped amounts or another measure of value; expect no intervals.",
    ),
    "side_column_is_revenue": Kind(
        _ERROR, "The side column is revenue itself and adds nothing.", "Declare another one, or side_columns: []."
    ),
    "flat_result": Kind(
        _WARNING,
        "The result is the same in all rows: what it costs cannot vary.",
        "Correct the column, or remove the result.",
    ),
    "results_swapped": Kind(
        _WARNING,
        "A later stage passed on more than the stage before it: the columns look swapped.",
        "Exchange the results' columns, or declare them in the order of the stages.",
    ),
}

_TIME = {
    "odd_time": Kind(
        _ERROR,
        "A few times lie far from all others: a clock was wrong.",
        "Correct or leave out the rows; splits by time depend on them.",
    ),
    "gap": Kind(
        _WARNING, "A stretch of time has no requests.", "Complete the export, or leave it if traffic really stopped."
    ),
    "revenue_outage": Kind(
        _WARNING,
        "On some days hardly a request paid: revenue was not logged, or not joined yet.",
        "Leave these days out, or wait until revenue is complete.",
    ),
    "revenue_shift": Kind(
        _WARNING,
        "The size of payments changed at one time: another unit, currency or definition.",
        "Bring both parts to one unit, or start the log after the change.",
    ),
    "drift": Kind(
        _WARNING,
        "Values of the first third are not those of the last: something was renamed, or the audience changed.",
        "Unify names; else train on recent rows only, and retrain often.",
    ),
    "frozen_column": Kind(
        _WARNING,
        "For a stretch of time the column had one value alone: a fallback, or a stuck service.",
        "Leave that time out.",
    ),
    "zone_mismatch": Kind(
        _WARNING,
        "Requests and minutes have the same daily shape at different hours: one of them is in another zone.",
        "Correct timezone, or write offsets into the times.",
    ),
    "times_apart": Kind(
        _WARNING, "The files cover different times.", "Export request log and minute table of the same weeks."
    ),
}

_MINUTES = {
    "duplicate_minutes": Kind(
        _ERROR, "A minute stands twice for one data centre.", "Keep one row a minute and data centre."
    ),
    "missing_minutes": Kind(
        _WARNING, "Minutes are missing.", "Complete the export; the system model learns around the gaps."
    ),
    "not_minutes": Kind(
        _WARNING, "Rows are not a minute apart.", "Export one row a minute; control by the minute needs them."
    ),
    "cpu_unit": Kind(_ERROR, "CPU is a share of 1 where percent is declared, or the other way.", "Correct `cpu`."),
    "stuck_sensor": Kind(
        _WARNING,
        "A CPU reading repeats itself for a long time: its sensor was stuck.",
        "Leave its readings empty there.",
    ),
    "lost_readings": Kind(_WARNING, "Many CPU readings are empty.", "Complete the export."),
    "no_traffic": Kind(_ERROR, "The minute table shows no traffic.", "Correct the column."),
    "price_never_moves": Kind(
        _ERROR,
        "λ has one value in all rows: what it takes off the CPU cannot be learned.",
        "Let it move (python -m mpc_balancer.commission plans how far and how long).",
    ),
    "price_effect_unknown": Kind(
        _ERROR,
        "λ never moved by itself: what it does cannot be told from what called for it.",
        "Throw λ about for some hours (python -m mpc_balancer.commission plans it).",
    ),
    "prices_swapped": Kind(
        _ERROR, "Each λ acts on the other's service.", "Exchange the price columns of the two services."
    ),
    "price_outlier": Kind(
        _WARNING, "A λ lies far above all others, like a slip of the sensor.", "Correct the row; λ's box leaves it out."
    ),
    "price_unit": Kind(
        _WARNING,
        "λ times the cost of a request is out of all proportion to what requests earn.",
        "Correct money or price_per in the declaration.",
    ),
}

_LOAD_TESTS = {
    "unknown_service": Kind(
        _ERROR,
        "The load test measured a service that is not declared.",
        "Correct services.*.load_test, or remove its rows.",
    ),
    "unmeasured_service": Kind(
        _ERROR, "A declared service has no load test in a data centre.", "Measure it, or correct services.*.load_test."
    ),
    "unknown_data_centre": Kind(
        _ERROR, "A data centre is not in all three files.", "Give it one name everywhere, or complete the files."
    ),
    "unmeasured_setting": Kind(
        _ERROR,
        "A declared setting has no load test: what it costs is unknown.",
        "Measure it; check that load test and log call it by one name.",
    ),
    "unknown_setting": Kind(
        _ERROR, "A load test used a setting that is not declared.", "Correct its name, or remove the rows."
    ),
    "few_load_tests": Kind(
        _ERROR, "Too few measurements rise above the idle CPU.", "Measure more buckets, at higher rates."
    ),
    "no_idle_rows": Kind(
        _WARNING,
        "No row at rate 0: the idle CPU counts as cost of requests.",
        "Measure the idle service, too (rate 0).",
    ),
    "unrepeatable": Kind(
        _WARNING,
        "Repetitions of one measurement differ much.",
        "Measure longer and on quiet machines; check rates and units.",
    ),
    "length_not_measured": Kind(
        _WARNING,
        "Requests are longer than any load test: their cost is extrapolated.",
        "Measure lengths up to the longest in the log; check that both columns count the same.",
    ),
    "cost_mismatch": Kind(
        _WARNING,
        "CPU, traffic and cores of the minutes give another cost per request than the load tests.",
        "Check the units of traffic and CPU, the cores, and whether the load test is of this service.",
    ),
}

CATALOGUE: dict[str, Kind] = _READING | _ACTIONS | _PROPENSITIES | _STATES | _REVENUE | _TIME | _MINUTES | _LOAD_TESTS
