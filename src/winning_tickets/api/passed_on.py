"""Verbs that take their arguments as they are; their results get tables."""

from __future__ import annotations

from winning_tickets.analysis.report.result import resulting
from winning_tickets.deploy import export as _export
from winning_tickets.deploy import mask_files as _mask_files
from winning_tickets.deploy import measure as _measure
from winning_tickets.finetuning import glue_submission as _glue_submission
from winning_tickets.training import predict as _predict

export = resulting("export")(_export.export)
glue_submission = resulting("glue-submission")(_glue_submission.glue_submission)
import_mask = resulting("import-mask")(_mask_files.import_mask)
measure = resulting("measure")(_measure.measure)
predict = resulting("predict")(_predict.predict)
