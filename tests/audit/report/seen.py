"""What is seen on the pages of a report."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Page
from report_world import Reported


def settled(page: Page) -> None:
    """Wait until every card that is in view is drawn."""
    page.wait_for_function(
        """() => [...document.querySelectorAll(".view:not([hidden]) canvas, dialog[open] canvas")].every((each) => {
             const { top, bottom } = each.getBoundingClientRect();
             return bottom < 0 || top > innerHeight || each.id || "drawn" in each.dataset;
           })"""
    )


def pixels(page: Page, selector: str) -> Any:
    """What is drawn on a canvas: uint8 [height, width, 3]."""
    data = page.eval_on_selector(selector, "(each) => each.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGB"))


def keys(page: Page) -> list[str]:
    return page.locator("#cards .key").all_text_contents()


def samples(reported: Reported) -> Any:
    table = reported.atlas.samples().to_pandas()
    return table[table.status == "ok"]
