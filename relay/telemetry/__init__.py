"""What an operator can see of a process: logs, metrics, traces and crash reports."""
