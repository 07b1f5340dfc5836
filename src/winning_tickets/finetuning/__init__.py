"""Fine-tuning on tasks: transfer, MLM heads, tickets sharing, super tickets, GLUE submissions."""
