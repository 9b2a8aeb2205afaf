"""An audit's publisher, over whose words nothing may stumble."""

from schemas.audit_records import PublicationRecord

PUBLICATION = PublicationRecord(
    name="Demo: <img src=x> *audit* | 1",
    license="CC-BY-4.0",
    url="https://example.org/audit",
    creator='Anna\n- list: [of] & <b>"nothing"</b> \'|`x`',
)
"""With all that Markdown, YAML, JSON and HTML could stumble over."""
