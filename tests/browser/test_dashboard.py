"""What people do with the dashboard, done in a real Chromium against a real gateway."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.demo.releases import World
from tests.browser.conftest import AILING, DESK, MODEL, PHONE, WAITING, Visit, Visitor
from tests.system import PLAIN, ROOT, RunningGateway
from tests.worker import eventually

pytestmark = pytest.mark.browser

TABS = ("traffic", "rollout", "shadow", "performance", "drift", "retraining", "review", "controls")
PAGES = (
    *("#/", "#/accounting", "#/audit"),
    *(f"#/models/{model}/{tab}" for model in (MODEL, WAITING) for tab in TABS),
)
READABLE = 4.5  # WCAG 2.2, 1.4.3: contrast of text
LARGE = 3.0


def confirmed(visit: Visit, action: str, reason: str) -> None:
    """Fills in the dialog that asks why, and agrees."""
    dialog = visit.page.get_by_role("dialog")
    dialog.get_by_label(re.compile("Reason")).fill(reason)
    dialog.get_by_role("button", name=action, exact=True).click()
    dialog.wait_for(state="detached")


def test_a_wrong_token_is_told_and_the_right_one_lets_in(visit: Visitor) -> None:
    one = visit(signed_in=False)
    one.sign_in("not-the-token")
    one.page.get_by_role("alert").filter(has_text="The gateway does not know this token.").wait_for()
    one.sign_in()
    one.page.get_by_role("link", name=re.compile(MODEL)).first.wait_for()
    assert one.gateway.token not in one.page.url
    one.page.get_by_role("button", name="Sign out").click()
    one.page.get_by_label("Token").wait_for()


def test_a_token_that_no_header_can_carry_is_told_before_it_is_sent(visit: Visitor) -> None:
    one = visit(signed_in=False)
    asked: list[str] = []
    one.page.on("request", lambda request: asked.append(request.url))
    one.sign_in("пароль")
    one.page.get_by_role("alert").filter(has_text="only Latin letters").wait_for()
    assert [url for url in asked if "/admin" in url] == []


@pytest.mark.parametrize("place", ["#/models/%E0%A4%A", "#/models/%E0%A4%A/drift", "#/%"])
def test_an_address_that_cannot_be_read_is_still_answered(visit: Visitor, place: str) -> None:
    one = visit(at=place)
    one.sees("There is no model named %E0%A4%A." if "models" in place else "Models")


def test_an_operator_starts_a_rollout_watches_it_move_and_takes_it_back(
    visit: Visitor, gateway: RunningGateway
) -> None:
    one = visit(at=f"#/models/{MODEL}/rollout")
    page = one.page
    page.get_by_role("button", name=re.compile("Start a rollout")).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Start", exact=True).click()
    assert dialog.is_visible(), "a reason is asked for"
    dialog.get_by_label("Candidate").select_option("v2")
    confirmed(one, "Start", "thirty features instead of two")
    one.sees("v2 in place of v1")
    stage = page.locator(".stages [aria-current=step]")
    assert stage.inner_text().startswith("5")
    page.get_by_role("button", name="Next stage").click()
    confirmed(one, "Next stage", "looks good")
    page.locator(".stages [aria-current=step]", has_text="25").wait_for()
    eventually(
        lambda: page.evaluate("() => document.querySelector('.facts')?.innerText.match(/([1-9][0-9]*) requests/)") or None,
        30.0, "requests in this stage",
    )  # fmt: skip
    one.sees("of at least 20 requests")
    one.sees("of at least 60 min")
    looks = {page.get_by_role("button", name=name).evaluate("(node) => getComputedStyle(node).color")
             for name in ("Pause", "Promote now", "Roll back")}  # fmt: skip
    assert len(looks) == 3, "what is dangerous looks so, and not like what is only bold"
    # Somebody else moves it: the page hears of it without being asked.
    (latest,) = gateway.get(f"/admin/models/{MODEL}/rollouts?limit=1")["rollouts"]
    gateway.admin("POST", f"/admin/models/{MODEL}/rollouts/{latest['id']}/pause", {"reason": "lunch"})
    page.get_by_role("button", name="Resume").wait_for()
    page.get_by_role("button", name="Roll back").click()
    confirmed(one, "Roll back", "enough of it")
    page.locator(".badge", has_text="rolled back").first.wait_for()
    eventually(lambda: "rolled back" in page.locator("#announce").inner_text(), 10.0, "the announcement")
    flags = gateway.get(f"/admin/models/{MODEL}/flags")
    assert (flags["canary_enabled"], flags["production"]) == (False, "v1")
    one.sees("enough of it")


def test_a_reviewer_labels_ten_items_by_keyboard(visit: Visitor, gateway: RunningGateway) -> None:
    one = visit(at=f"#/models/{MODEL}/review")
    page = one.page
    page.get_by_role("button", name=re.compile("Draw 10")).focus()
    page.keyboard.press("Enter")
    for number in range(1, 11):
        page.get_by_role("heading", name=f"Item {number} of 10").wait_for()
        page.keyboard.press("1" if number % 2 else "2")
    one.sees("10 labelled, 0 left")


def test_an_answer_that_is_cut_off_ends_nothing(visit: Visitor) -> None:
    one = visit()
    one.page.locator("main .card.model").first.wait_for()
    one.page.route("**/metrics", lambda route: route.abort(), times=1)
    one.page.route(
        "**/admin/models",
        lambda route: route.fulfill(content_type="application/json", body='{"models": ['),
        times=1,
    )
    with one.page.expect_response("**/admin/models"):
        one.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    for _ in range(3):  # and it is asked again and again
        with one.page.expect_response("**/admin/models", timeout=20_000) as answer:
            pass
        assert answer.value.status == 200
    one.page.locator(".live:not(.lost)").wait_for()


def test_a_label_that_did_not_arrive_can_be_given_again(visit: Visitor) -> None:
    one = visit(at=f"#/models/{MODEL}/review")
    page = one.page
    page.get_by_role("button", name=re.compile("Draw 10")).click()
    page.get_by_role("heading", name="Item 1 of 10").wait_for()
    page.route("**/review/*", lambda route: route.abort(), times=1)
    page.keyboard.press("1")
    page.get_by_role("alert").filter(has_text="cannot be reached").wait_for()
    page.keyboard.press("1")
    page.get_by_role("heading", name="Item 2 of 10").wait_for()


def test_a_kill_switch_asks_why_and_the_audit_keeps_it(visit: Visitor, gateway: RunningGateway) -> None:
    one = visit(at=f"#/models/{MODEL}/controls")
    one.page.get_by_role("button", name="Stop shadows").click()
    confirmed(one, "Stop shadows", "the copies cost too much")
    one.page.get_by_role("button", name="Start shadows").wait_for()
    assert gateway.get(f"/admin/models/{MODEL}/flags")["shadow_enabled"] is False
    one.open("#/audit")
    one.page.get_by_role("row").filter(has_text="the copies cost too much").first.wait_for()
    gateway.set_flags(MODEL, shadow_enabled=True)


def test_a_change_based_on_old_flags_is_refused_in_words(visit: Visitor, gateway: RunningGateway) -> None:
    one = visit(at=f"#/models/{MODEL}/controls")
    one.page.get_by_role("button", name=re.compile("Change shadows")).click()
    gateway.set_flags(MODEL, shadow_versions=["v3"])
    dialog = one.page.get_by_role("dialog")
    dialog.get_by_label("Versions").fill("v2")
    dialog.get_by_label(re.compile("Reason")).fill("too late")
    dialog.get_by_role("button", name="Change shadows").click()
    dialog.get_by_role("alert").filter(has_text="Someone changed the flags").wait_for()
    assert gateway.get(f"/admin/models/{MODEL}/flags")["shadow_versions"] == ["v3"]
    gateway.set_flags(MODEL, shadow_versions=["v2"])


# ---- what is shown is what is known


def predict(gateway: RunningGateway, model: str, **features: object) -> int:
    reply = httpx2.post(
        f"{gateway.url}/models/{model}/predict",
        json={"features": features},
        trust_env=False,
        timeout=10.0,
        verify=PLAIN,
    )
    return reply.status_code


def test_a_quarantined_record_does_not_upset_the_accounts(visit: Visitor, gateway: RunningGateway) -> None:
    """It was stored, whole, in quarantine: counted once."""
    predict(gateway, WAITING, note="\u0000")
    eventually(lambda: gateway.accounting()["quarantined"] > 0, 20.0, "a quarantined record")
    one = visit(at="#/accounting")
    figure = one.page.locator(".figures div", has_text="quarantined, of the stored").locator("dd")
    eventually(lambda: figure.inner_text() == str(gateway.accounting()["quarantined"]), 10.0, "the record")
    assert one.page.locator(".badge", has_text="does not add up").count() == 0
    one.page.locator(".badge", has_text=re.compile("^adds up$")).wait_for()


def test_a_model_whose_production_fails_is_called_failing(visit: Visitor, gateway: RunningGateway) -> None:
    one = visit()
    card = one.page.locator(".card.model", has_text=AILING)
    card.locator(".badge", has_text=re.compile("^no traffic$")).wait_for()
    assert {predict(gateway, AILING) for _ in range(25)} == {502}
    card.locator(".badge.bad", has_text=re.compile("^failing$")).wait_for()
    assert card.locator(".badge.good").count() == 0
    assert AILING in one.page.locator(".card.model").first.inner_text(), "it stands first"
    one.open(f"#/models/{AILING}/traffic")
    one.page.locator(".title .badge.bad", has_text="failing").wait_for()


def test_no_data_is_shown_neither_as_good_nor_as_bad(visit: Visitor, gateway: RunningGateway) -> None:
    for case in World(3).cases(3):
        assert predict(gateway, WAITING, **case.features) == 200
    one = visit(at=f"#/models/{WAITING}/retraining")
    page = one.page
    page.get_by_role("button", name="Evaluate now").click()
    page.locator("main .badge", has_text=re.compile("^not known$")).wait_for()
    assert page.locator("main .card .badge.good").count() == 0
    one.open(f"#/models/{WAITING}/shadow")
    one.sees("no pair has been compared yet")
    one.open(f"#/models/{WAITING}/review")
    page.get_by_role("button", name=re.compile("Draw 10")).wait_for()
    assert page.get_by_text("0 labelled").count() == 0
    one.open(f"#/models/{WAITING}/drift")
    one.sees(f"/admin/models/{WAITING}/baseline")
    assert page.get_by_text("{model}").count() == 0
    one.open(f"#/models/{WAITING}/performance")
    page.get_by_role("heading", name="Nothing to judge yet").wait_for()
    one.sees("30 days after its prediction")
    assert page.locator(".chart").count() == 0, "one card says it, not one a metric"


def test_the_command_that_is_recommended_can_be_run_as_it_stands(
    visit: Visitor, gateway: RunningGateway, tmp_path: Path
) -> None:
    one = visit(at=f"#/models/{MODEL}/retraining")
    program, *arguments = shlex.split(one.page.locator("pre").inner_text())
    assert program == "model-gateway"
    known = {"PYTHONPATH": str(ROOT), "GATEWAY_URL": gateway.url, "GATEWAY_TOKEN": gateway.token}
    done = subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=tmp_path,
        env={**os.environ, **known},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / f"{MODEL}.parquet").stat().st_size > 0


def test_at_training_means_the_same_as_in_the_retraining_decision(
    visit: Visitor, gateway: RunningGateway
) -> None:
    """An uploaded baseline comes before the configured one."""
    one = visit(at=f"#/models/{MODEL}/performance")
    one.sees("at training 0.950", 30.0)
    body = {"version": "v1", "metrics": {"accuracy": 0.875, "recall": 0.75}}
    assert gateway.admin("POST", f"/admin/models/{MODEL}/baseline", body).status_code == 201
    decision = gateway.admin("POST", f"/admin/models/{MODEL}/retraining", {}).json()
    assert decision["inputs"]["performance_baseline"] == 0.875
    one.open("#/")
    one.open(f"#/models/{MODEL}/performance")
    one.sees("at training 0.875")
    one.sees("at training 0.750")
    assert one.page.get_by_text("ece_noise").count() == 0


def test_labels_that_differ_are_told_by_their_direction(visit: Visitor) -> None:
    one = visit(at=f"#/models/{MODEL}/shadow")
    one.sees("production 0, shadow 1")
    one.sees("production 1, shadow 0")
    offered = one.page.get_by_label("Compared with production").locator("option").all_inner_texts()
    assert offered == ["v2", "v3"], "production is not compared with itself"


def test_a_legend_looks_like_its_line_and_stands_once(visit: Visitor, gateway: RunningGateway) -> None:
    gateway.set_flags(MODEL, candidate="v2", canary_percent=50.0, canary_enabled=True)
    try:
        one = visit(at=f"#/models/{MODEL}/traffic")
        one.page.locator("path.line.tone-1").first.wait_for()
        dashes = "(nodes) => nodes.map((node) => getComputedStyle(node).strokeDasharray)"
        drawn = one.page.locator("path.line.tone-1").evaluate_all(dashes)
        named = one.page.locator(".legend .line.tone-1").evaluate_all(dashes)
        assert {*drawn, *named} == {"7px, 3px"}
        threshold = one.page.locator(".legend .threshold").evaluate_all(dashes)
        assert threshold == ["none"], "not to be taken for a version"
        share = one.page.locator(".chart", has_text="Who answers clients")
        assert share.locator(".legend").count() == 1
    finally:
        gateway.set_flags(MODEL, candidate=None, canary_percent=0.0, canary_enabled=False)


def test_a_caption_is_as_wide_as_its_table_on_a_phone(visit: Visitor) -> None:
    one = visit(at="#/audit", viewport=PHONE)
    width = "(node) => node.getBoundingClientRect().width"
    one.page.locator("caption").wait_for()
    assert one.page.locator("caption").evaluate(width) == one.page.locator("table").evaluate(width)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", ["phone", "desk"])
def test_every_page_fits_and_its_text_can_be_read(visit: Visitor, width: str, scheme: str) -> None:
    one = visit(viewport=PHONE if width == "phone" else DESK, color_scheme=scheme, reduced_motion="reduce")
    for place in PAGES:
        one.open(place)
        one.page.locator("main .card, main table, main .empty").first.wait_for()
        one.page.get_by_text("asking the gateway").first.wait_for(state="detached")
        assert one.wide() <= 0, place
        assert one.page.evaluate(_FAINT, [READABLE, LARGE]) == [], place
        assert one.page.evaluate(_UNNAMED) == [], place


def test_all_of_it_can_be_reached_by_keyboard_and_one_sees_where_one_is(visit: Visitor) -> None:
    one = visit()
    page = one.page
    page.locator("main .card.model").first.wait_for()
    page.evaluate("document.activeElement.blur()")
    seen: list[str] = []
    for _ in range(12):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.textContent.trim()"))
        outline: dict[str, Any] = page.evaluate(
            "(({outlineStyle: style, outlineWidth: width}) => ({style, width}))(getComputedStyle(document.activeElement))"
        )
        assert outline["style"] != "none"
        assert outline["width"] != "0px"
        if any(MODEL in text for text in seen):
            break
    assert seen[0] == "Skip to content"
    assert any(MODEL in text for text in seen)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=MODEL, level=1).wait_for()


def test_the_page_lives_through_a_restart_of_the_gateway(visit: Visitor, gateway: RunningGateway) -> None:
    one = visit()
    live = one.page.locator(".live")
    one.page.locator(".live", has_text=re.compile("^live$")).wait_for()
    gateway.process.terminate()
    try:
        gateway.process.wait(30)
        one.page.locator(".live.lost").wait_for()
        eventually(lambda: "cannot be reached; trying again" in live.inner_text(), 10.0, "a clear message")
    finally:
        gateway.start_again()
    one.page.locator(".live:not(.lost)").wait_for(timeout=20_000)
    one.page.locator(".live", has_text=re.compile("^live$")).wait_for(timeout=30_000)
    # And it shows what is new.
    gateway.set_flags(MODEL, disabled_versions=["v3"])
    one.sees("v3 disabled")
    gateway.set_flags(MODEL, disabled_versions=[])


def test_an_open_page_does_not_hold_up_the_stop(visit: Visitor, gateway: RunningGateway) -> None:
    one = visit()
    one.page.locator(".live", has_text=re.compile("^live$")).wait_for()
    gateway.process.terminate()
    try:
        gateway.process.wait(15)  # draining takes up to 20 s
    finally:
        gateway.start_again()


def test_the_page_may_load_and_ask_nothing_but_its_own_gateway(
    visit: Visitor, gateway: RunningGateway
) -> None:
    one = visit()
    policy = gateway.admin("GET", "/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    # The policy is obeyed: markup that carries a script or a style of its own does nothing.
    ran = one.page.evaluate(
        """async () => {
          const script = document.createElement('script');
          script.textContent = 'window.ran = true';
          document.head.append(script);
          const elsewhere = await fetch('http://127.0.0.1:9/').then(() => 'asked', (error) => error.name);
          return [window.ran ?? false, elsewhere];
        }"""
    )
    assert ran == [False, "TypeError"]
    assert any("Content Security Policy" in error for error in one.errors)
    one.errors.clear()
    one.hosts.discard("127.0.0.1:9")


# Visible text whose contrast with what lies behind it is too small: [text, contrast].
_FAINT = """([readable, large]) => {
  const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const shine = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const [r, g, b, a = 1] = parse(getComputedStyle(at).backgroundColor);
      if (a > 0) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || !node.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
    if (node.closest(':disabled, option, .visually-hidden, .skip')) continue;
    const style = getComputedStyle(node);
    const [one, two] = [shine(parse(style.color)), shine(behind(node))];
    const contrast = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    const big = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 700);
    if (contrast < (big ? large : readable)) faint.push([text.slice(0, 40), contrast.toFixed(2)]);
  }
  return faint;
}"""

# Controls without a name for those who do not see them.
_UNNAMED = """() => [...document.querySelectorAll('button, a[href], input:not([hidden]), select, [role=img]')]
  .filter((node) => !(node.textContent.trim() || node.getAttribute('aria-label') || node.labels?.length || node.title))
  .map((node) => node.outerHTML.slice(0, 120))"""
