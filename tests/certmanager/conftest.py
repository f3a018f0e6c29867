"""Helm is that of the chart's tests."""

from chart.conftest import helm

__all__ = ["helm"]
