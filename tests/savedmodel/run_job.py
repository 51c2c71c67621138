"""Run the export job argv[1], as the exporting process does; it leaves its result file."""

import sys

from tfs_deploy.savedmodel.export.child import run_job

sys.exit(run_job(sys.argv[1]))
