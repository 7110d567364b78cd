#!/bin/sh
# Every run of the proposal's Table 1, then the report. Options are those of `sublora sweep`, as in: --jobs 2
set -e
cd "$(dirname "$0")/.."
python -m sublora sweep --config-file config/adaptive_experiments.yaml "$@"
python experiments/analyze_results.py out/adaptive/results --out out/adaptive/report
