"""Debian's Chromium, started by Playwright for tests and pictures."""

from pathlib import Path

from playwright.sync_api import Browser, Playwright

CHROMIUM = Path("/usr/bin/chromium")
# Each window would load two pages for the menus of its address bar, which takes half of a window's CPU time.
WINDOW_PARTS = ["WebUIOmniboxPopup", "WebUIOmniboxAimPopup"]
# Chromium heeds the last list only, and ours comes after Playwright's: what is here is Playwright's, for Linux.
PLAYWRIGHTS = [
    "AimEnabled",
    "AvoidCorsURLLoaderRestartOnRedirect",
    "AvoidUnnecessaryBeforeUnloadCheckSync",
    "DestroyProfileOnBrowserClose",
    "HttpsFirstBalancedModeAutoEnable",
    "HttpsUpgrades",
    "LensOverlay",
    "MediaRouter",
    "NetworkTimeServiceQuerying",
    "OptimizationHints",
    "PaintHolding",
    "PreconnectToSearch",
    "ThirdPartyStoragePartitioning",
]
FLAGS = ["--no-sandbox", f"--disable-features={','.join(WINDOW_PARTS + PLAYWRIGHTS)}"]


def launch(playwright: Playwright) -> Browser:
    """Start a browser without a screen."""
    return playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
