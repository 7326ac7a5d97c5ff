"""Each failure that the reference system showed, and each hole in it, has a test that breaks it.

The table names those tests, so that none of them goes unnoticed.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

CANCEL = "promises/test_cancel.py"
CONNECTION_LOSS = "promises/test_connection_loss.py"
LOSSES = "promises/test_losses.py"
OUTCOMES = "promises/test_outcomes.py"
POISON = "promises/test_poison.py"
QUEUE_KEYS = "promises/test_queue_keys.py"
EXECUTION_KEYS = "promises/test_execution_keys.py"
FAIL_OVER = "promises/test_coordinator_failover.py"
PAUSE = "promises/test_pause.py"
RECONFIGURING = "promises/test_reconfiguring.py"
SHUTDOWN = "promises/test_shutdown.py"

IMPOSSIBLE: dict[str, tuple[tuple[str, str], ...]] = {
    # Enqueueing where no queue or coordinator is: lost, or a false duplicate.
    "1": (
        ("promises/test_processes.py", "test_jobs_of_a_killed_node_are_performed_by_another"),
        (QUEUE_KEYS, "test_without_a_node_nothing_is_enqueued_and_no_key_stays"),
    ),
    # A connection that dies while jobs are enqueued.
    "2": ((LOSSES, "test_what_enqueue_confirmed_is_performed_though_connections_were_closed"),),
    # Undecodable and unknown jobs: acknowledged, and their keys taken for ever.
    "3": (
        (POISON, "test_foreign_payloads_are_buried_byte_for_byte_and_the_jobs_among_them_done"),
        (POISON, "test_unknown_names_are_retried_through_the_levels_and_then_buried"),
        (QUEUE_KEYS, "test_an_undecodable_job_and_an_unknown_one_leak_no_key"),
    ),
    # A payload that kills the supervisor of its neighbours.
    "4": ((POISON, "test_generated_payloads_are_buried_byte_for_byte"),),
    # A job with both keys that has to wait.
    "5": (
        (
            QUEUE_KEYS,
            "test_a_job_with_both_keys_that_has_to_wait_holds_its_queue_key_and_runs",
        ),
    ),
    # A coordinator that is killed: jobs "cancelled" that never ran.
    "6": (
        (FAIL_OVER, "test_killing_its_connection_forgets_no_key"),
        (FAIL_OVER, "test_the_coordinators_node_is_killed_while_500_jobs_are_enqueued"),
        (FAIL_OVER, "test_a_frozen_coordinator_that_was_superseded_does_not_answer"),
    ),
    # A node that is killed while its job holds an execution key.
    "7": (
        (
            EXECUTION_KEYS,
            "test_the_redelivered_job_of_a_killed_holder_runs_first_and_then_the_others",
        ),
        (QUEUE_KEYS, "test_a_key_is_held_through_sigkill_of_the_only_node"),
    ),
    # Waiting longer than a queue lives.
    "8": (
        (EXECUTION_KEYS, "test_waiting_jobs_never_expire"),
        (EXECUTION_KEYS, "test_waiting_jobs_hold_no_worker"),
    ),
    # A delay whose queue goes before its message.
    "9": (
        ("conformance/test_delays.py", "test_a_long_delay_is_taken"),
        (OUTCOMES, "test_retries_come_after_their_level_and_the_last_failure_buries"),
    ),
    # A channel that is closed under running jobs.
    "10": ((CONNECTION_LOSS, "test_a_running_job_goes_on_through_lost_connections"),),
    # Reconfigurations under load.
    "11": (
        (RECONFIGURING, "test_twenty_reconfigurations_under_load_strand_no_job_and_no_consumer"),
    ),
    # A pause that ends with a restart.
    "12": (
        (PAUSE, "test_a_pause_holds_across_the_end_of_all_nodes"),
        (
            PAUSE,
            "test_a_pause_holds_on_processes_that_are_killed_and_on_new_ones",
        ),
    ),
    # Queues that end with their broker; buried jobs beyond the hundredth.
    "13": (
        (LOSSES, "test_a_killed_broker_keeps_what_is_queued_delayed_and_buried"),
        (LOSSES, "test_a_killed_broker_keeps_keys_and_the_jobs_that_wait_for_them"),
        (OUTCOMES, "test_max_buried_keeps_the_newest_and_counts_the_others"),
    ),
    # Two nodes of one name.
    "14": (("promises/test_cluster.py", "test_two_nodes_with_default_names_never_share_one"),),
    # The holes that were found by reading.
    "a": ((LOSSES, "test_a_killed_broker_keeps_keys_and_the_jobs_that_wait_for_them"),),
    "b": ((EXECUTION_KEYS, "test_waiting_jobs_never_expire"),),
    "c": ((OUTCOMES, "test_max_buried_keeps_the_newest_and_counts_the_others"),),
    "d": (
        (LOSSES, "test_a_retry_survives_a_death_between_its_publish_and_the_settlement"),
        (LOSSES, "test_a_burial_survives_a_death_between_its_publish_and_the_settlement"),
    ),
    "e": (
        (QUEUE_KEYS, "test_an_enqueue_that_is_cancelled_at_any_step_leaks_no_key"),
        (QUEUE_KEYS, "test_a_client_killed_between_its_claim_and_its_publish_leaks_no_key"),
    ),
    "f": ((QUEUE_KEYS, "test_a_key_is_held_through_delay_snooze_and_retry"),),
    "g": (
        (
            QUEUE_KEYS,
            "test_a_job_with_both_keys_that_has_to_wait_holds_its_queue_key_and_runs",
        ),
    ),
    "h": (
        (
            EXECUTION_KEYS,
            "test_nothing_that_happens_to_a_waiting_job_frees_the_running_ones_key",
        ),
    ),
    "i": (
        (CANCEL, "test_a_job_that_runs_in_another_process_is_stopped"),
        (CANCEL, "test_however_a_cancelled_job_ends_it_counts_as_cancelled"),
    ),
    "j": ((CANCEL, "test_a_job_that_waits_for_whatever_never_starts_again"),),
    "k": (
        (QUEUE_KEYS, "test_a_key_is_held_while_its_job_is_given_back_and_no_node_runs"),
        (EXECUTION_KEYS, "test_waiting_jobs_survive_the_end_of_all_nodes"),
    ),
    "l": ((QUEUE_KEYS, "test_an_undecodable_job_and_an_unknown_one_leak_no_key"),),
    "m": ((OUTCOMES, "test_a_callback_that_raises_changes_nothing_but_the_log"),),
    "n": ((RECONFIGURING, "test_a_queue_deleted_under_its_consumer_is_consumed_again"),),
    "o": (
        (POISON, "test_looking_changes_neither_order_nor_attempts_and_buries_nothing"),
        (PAUSE, "test_a_pause_holds_on_two_nodes_once_it_has_returned"),
    ),
    "p": ((SHUTDOWN, "test_a_job_that_takes_too_long_is_cancelled_and_given_back"),),
}


@pytest.mark.parametrize("number", [str(n) for n in range(1, 15)] + list("abcdefghijklmnop"))
def test_each_failure_of_the_reference_has_its_tests(number: str) -> None:
    """The tests that the table names are there."""
    assert IMPOSSIBLE[number]
    for path, name in IMPOSSIBLE[number]:
        tree = ast.parse((TESTS / path).read_text())
        functions = [
            each.name
            for each in tree.body
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        assert name in functions, path
