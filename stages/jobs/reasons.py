"""Why a job waits: the scheduler's words, and what they mean."""

import re

# By the beginning of the word; the first that fits.
_MEANINGS = {
    "PartitionConfig": "no machine of the partition can ever start it",
    "BadConstraints": "no machine of the partition has what it asks for",
    "PartitionNodeLimit": "the partition never gives so many machines to a job, or those it would need are down",
    "PartitionTimeLimit": "its time limit is longer than the partition allows",
    "(InvalidAccount|AssocNotFound)": "the account does not exist, or is not yours",
    "AccountNotAllowed": "the partition does not take this account",
    "(InvalidQOS|QOSNotAllowed)": "the qos does not exist, or may not be used here",
    "(QOS|MaxQOS)": "a limit of its qos: earlier jobs must end first, or it asks for more than the qos allows",
    "(Assoc|Max.*Per)": "a limit of your account: earlier jobs must end first, or it asks for more than the account allows",
    "Dependency": "it waits for the jobs before it",
    "Resources": "it is the next, and waits until machines are free",
    "Priority": "other jobs come before it",
    "(ReqNodeNotAvail|NodeDown|UnavailableNodes)": "machines that it needs are down, or kept for maintenance or others",
    "Reservation": "it waits for its reservation",
    "PartitionDown": "the partition is closed for the moment",
    "PartitionInactive": "the partition starts no jobs for the moment",
    "BeginTime": "it was put back and starts again in about two minutes",
    "JobArrayTaskLimit": "as many tasks as resources.*.array_parallelism allows are at work",
    "Licenses": "it waits for a licence",
    "Cleaning": "what is left of its last start is being removed",
    "(JobHeld|JobHold|.*requeued_held)": "it is held: `scontrol release` with its number lets it go on",
}
# These do not pass by waiting.
_FINAL = ("PartitionConfig", "BadConstraints", "PartitionTimeLimit", "InvalidAccount", "AssocNotFound", "AccountNotAllowed", "InvalidQOS",
          "QOSNotAllowed")  # fmt: skip


def meaning(reason: str) -> str:
    """What SLURM's word for why a job waits means; empty where it is not known.

    Example:
        >>> from stages.jobs.reasons import meaning
        >>> meaning("Priority")
        'other jobs come before it'
    """
    return next((words for beginning, words in _MEANINGS.items() if re.match(beginning, reason)), "")


def is_final(reason: str) -> bool:
    """Whether the job waits for ever."""
    return reason.startswith(_FINAL)
