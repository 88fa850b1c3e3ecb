"""The faults to survive, one row each: what is done, and the tests that show it. `make faults` fills in the figures.

A proof is the beginning of a test's node id. A row without proofs that ran is reported as such, never as holding.
"""

from __future__ import annotations

from dataclasses import dataclass

_FAULTS = "tests/faults/"
_UPSTREAM = "tests/proxy/test_upstream_faults.py::"
_REQUESTS = "tests/proxy/test_requests.py::"
_ANSWERS = "tests/proxy/test_conformance_of_answers.py::"
_CANARY = "tests/proxy/test_canary_and_shadow.py::"
_SERVERS = _FAULTS + "test_model_servers.py::"
_BODIES = "tests/proxy/test_whole_bodies.py::"
_BOUNDS = "tests/proxy/test_bounds.py::"
_JOURNAL = "tests/journal/test_journal.py::"
_STORY = "tests/scenarios/test_first_story.py::"
_MUCH = _FAULTS + "test_too_much.py::"
_AWAY = _FAULTS + "test_store_away.py::"
_SECURITY = "tests/security/"


@dataclass(frozen=True, slots=True)
class Row:
    number: int
    fault: str
    proofs: tuple[str, ...]


ROWS = (
    Row(1, "Model server hangs or drips", (_UPSTREAM + "test_no_answer_within", _UPSTREAM + "test_a_cut_answer",
                                           _SERVERS + "test_a_hanging_server")),
    Row(2, "Model server resets before or in its answer", (_UPSTREAM + "test_a_connection_lost", _UPSTREAM + "test_a_cut_answer",
                                                           _SERVERS + "test_a_post_on_a_kept")),
    Row(3, "Model server's framing is wrong", (_UPSTREAM + "test_an_answer_that_is_not_http", _ANSWERS,
                                               _SERVERS + "test_a_connection_that_spoke_no_http")),
    Row(4, "Interim answers, trailers, bodies where none belong", (_UPSTREAM + "test_unusual_but_right", _UPSTREAM + "test_a_head_answer",
                                                                    _ANSWERS, _SERVERS + "test_the_next_requests",
                                                                    _SERVERS + "test_an_answers_trailer")),
    Row(5, "1 MB header, 10 GB body", (_UPSTREAM + "test_an_answer_that_is_not_http", _SERVERS + "test_answers_with_headers",
                                       _UPSTREAM + "test_a_long_answer", _MUCH + "test_a_long_answer")),
    Row(6, "Slow clients by the thousand", (_FAULTS + "test_clients.py::test_slow_clients",
                                            _FAULTS + "test_clients.py::test_good_clients",
                                            _BOUNDS + "test_a_client_that_does_not_read")),
    Row(7, "Clients leave before or during the answer", (_FAULTS + "test_clients.py::test_clients_that_leave",)),
    Row(8, "Clients reset after the answer", (_FAULTS + "test_clients.py::test_resets",)),
    Row(9, "Shadow hangs, crashes, drips, answers 10 GB, is slow, has a dead name", (_FAULTS + "test_shadow_cost.py",
                                                                                     _CANARY + "test_a_shadow",
                                                                                     _BOUNDS + "test_a_shadows_trailer",
                                                                                     _BOUNDS + "test_names_that_nobody")),
    Row(10, "PostgreSQL down at the start", (_AWAY + "test_postgres_down",)),
    Row(11, "PostgreSQL paused, restarted, cutting connections", (_AWAY + "test_a_paused", _AWAY + "test_a_restarted",
                                                                  _AWAY + "test_connections_cut")),
    Row(12, "Disk full under PostgreSQL or the journal, fsync fails", (_FAULTS + "test_full_disk.py", _JOURNAL + "test_a_full_disk",
                                                                       _JOURNAL + "test_an_fsync_that_fails",
                                                                       _JOURNAL + "test_with_refuse_a_failing_fsync")),
    Row(13, "Rows that PostgreSQL refuses", (_FAULTS + "test_store_refuses.py",)),
    Row(14, "Redis gone, paused, flushed, full of garbage", (_FAULTS + "test_redis_away.py",)),
    Row(15, "Redis and store down at a restart", (_FAULTS + "test_redis_away.py::test_with_redis_and_store_down",)),
    Row(16, "Everything killed at random times under load", (_FAULTS + "test_killed.py::test_two_hundred", _STORY + "test_ten_kills",
                                                               _STORY + "test_a_killed_worker")),
    Row(17, "Killed between read, commit and delete; torn and damaged records", (_FAULTS + "test_recorder_killed.py",
                                                                                 _FAULTS + "test_killed.py::test_a_journal_damaged",
                                                                                 "tests/journal/test_journal.py")),
    Row(18, "SIGTERM and rolling restart amid traffic", (_FAULTS + "test_stopping.py", _STORY + "test_a_rolling_restart",
                                                         _REQUESTS + "test_a_worker_that_is_told_to_stop")),
    Row(19, "The wall clock jumps", (_FAULTS + "test_clock.py", "tests/domain/test_prediction.py")),
    Row(20, "Outcomes in every wrong order", (_FAULTS + "test_store_refuses.py::test_outcomes",
                                              _FAULTS + "test_store_refuses.py::test_an_outcome",
                                              _FAULTS + "test_store_refuses.py::test_the_accounts", _STORY + "test_outcomes_join")),
    Row(21, "Strange JSON", (_SECURITY + "test_strange_json.py",)),
    Row(22, "Compressed bombs", (_MUCH + "test_a_gzip_bomb", _MUCH + "test_our_own_endpoints_unpack")),
    Row(23, "Header injection both ways", (_SECURITY + "test_injection.py",)),
    Row(24, "Host and X-Forwarded-* spoofed", (_SECURITY + "test_spoofing.py",)),
    Row(25, "Admin API without the right token", (_SECURITY + "test_admin_access.py", _SECURITY + "test_rotation.py",
                                                  "tests/api/test_auth.py")),
    Row(26, "Upstream addresses nobody may reach; redirects", (_SECURITY + "test_upstream_policy.py", _SECURITY + "test_rebinding.py")),
    Row(27, "Path tricks", (_SECURITY + "test_paths.py",)),
    Row(28, "Request smuggling", (_REQUESTS, "tests/proxy/test_conformance_of_requests.py", _BODIES,
                                   _BOUNDS + "test_a_trailer_without_end")),
    Row(29, "Labels without end", (_MUCH + "test_paths_methods_and_versions", "tests/api/test_metrics.py")),
    Row(30, "Colliding prediction ids", (_SECURITY + "test_prediction_ids.py", "tests/proxy/test_assignment.py::test_a_prediction_id")),
    Row(31, "Ten times too much load", (_MUCH + "test_ten_times", _MUCH + "test_what_is_refused")),
    Row(32, "Control process or leader dies", (_STORY + "test_traffic_goes_on", _FAULTS + "test_replicas.py")),
    Row(33, "Two admins at once", (_SECURITY + "test_two_admins.py", _FAULTS + "test_replicas.py::test_of_two_admins")),
)  # fmt: skip
