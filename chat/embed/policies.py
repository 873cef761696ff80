"""Whether the policies that a page sends along let a browser load the widget and its frame."""

from collections.abc import Iterator, Sequence

import httpx

from chat.embed.case import Case, Finding, quote
from chat.embed.csp import FRAMES, SCRIPTS, Policy, allows_script, allows_url, governing, has_nonce, has_strict_dynamic
from chat.embed.page import LOADER, PagePolicy
from chat.embed.safe_fetch import origin_of

NEEDED_IN_A_SANDBOX = ("allow-scripts", "allow-same-origin")


def check_policies(case: Case) -> Iterator[Finding]:
    """Look at each of the page's policies: what one of them forbids is forbidden."""
    found = [finding for entry in case.page.policies for finding in _check_policy(case, entry)]
    yield from found
    if case.page.policies and not any(finding.level == "error" for finding in found):
        yield Finding("policies_allow", "ok", "The page's Content-Security-Policy lets the widget in.")


def is_upgraded(entry: PagePolicy) -> bool:
    """Tell whether a policy has the browser ask by https for what is named with http."""
    return entry.is_enforced and "upgrade-insecure-requests" in entry.policy


def _check_policy(case: Case, entry: PagePolicy) -> Iterator[Finding]:
    # what is said in a <meta> counts from there on; a script's tag that is not seen may be anywhere
    name = governing(entry.policy, SCRIPTS) if case.tag is None or entry.at < case.tag.at else None
    if name and not _runs(case, entry.policy[name]):
        yield _blocked(case, entry, "script", name, _script_fix(case, entry.policy, name))
    name = governing(entry.policy, FRAMES)
    if name and not allows_url(entry.policy[name], _frame(case), case.page.url):
        yield _blocked(case, entry, "frame", name, _added(case, entry.policy, name, FRAMES[0]))
    if entry.is_enforced and "sandbox" in entry.policy:
        yield from _check_sandbox([flag.lower() for flag in entry.policy["sandbox"]])


def _runs(case: Case, sources: Sequence[str]) -> bool:
    """Tell whether the widget's script may run. An unseen tag may be put in by another script, with its nonce."""
    if case.tag is None:
        is_trusted = has_strict_dynamic(sources) or has_nonce(sources)
        return is_trusted or allows_url(sources, case.server.join(LOADER), case.page.url)
    return allows_script(sources, case.tag.url, case.page.url, case.tag.attributes.get("nonce"))


def _frame(case: Case) -> httpx.URL:
    return case.server.join(f"/widget/{case.site.key if case.site else 'pub'}")


def _blocked(case: Case, entry: PagePolicy, what: str, name: str, fix: str) -> Finding:
    directive = quote(" ".join([name, *entry.policy[name]]))
    who = f"does not let in the widget's {what} from {origin_of(case.server)}"
    if not entry.is_enforced:
        text = f"The page's Content-Security-Policy-Report-Only {who}: {directive}. Once it is enforced, that counts."
        return Finding(f"policy_reports_{what}", "warning", text, fix)
    where = "Content-Security-Policy" if entry.at < 0 else "Content-Security-Policy, in a <meta>,"
    return Finding(f"policy_blocks_{what}", "error", f"The page's {where} {who}: {directive}", fix)


def _script_fix(case: Case, policy: Policy, name: str) -> str:
    if has_nonce(policy[name]):
        return 'Put the nonce of the page\'s other scripts into the tag too: <script nonce="…" …>.'
    if has_strict_dynamic(policy[name]):
        return "Have a script that it lets in put the tag into the page: with 'strict-dynamic' no host counts."
    return _added(case, policy, name, SCRIPTS[1])


def _added(case: Case, policy: Policy, name: str, own: str) -> str:
    """Return the directive that lets Parley in too; where default-src decides, one of its own."""
    directive = own if name == "default-src" else name
    sources = [source for source in policy[name] if source.lower() != "'none'"]
    return f"Say there: {quote(' '.join([directive, *sources]))} {origin_of(case.server)}"


def _check_sandbox(flags: Sequence[str]) -> Iterator[Finding]:
    missing = [flag for flag in NEEDED_IN_A_SANDBOX if flag not in flags]
    if missing:
        text = f"The page's Content-Security-Policy puts it into a sandbox without {' and '.join(missing)}."
        yield Finding("page_sandboxed", "error", text, f"Say there: {quote(' '.join(['sandbox', *flags, *missing]))}")
