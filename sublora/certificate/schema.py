"""The JSON Schema of a certificate, for other tools.

python -m sublora.certificate.schema > docs/certificate.schema.json
"""

import json
import sys

from sublora.certificate.model import Certificate


def schema_text() -> str:
    """Return the schema (JSON Schema, draft 2020-12) as text."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(dialect | Certificate.model_json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
