"""What the search box needs to know of the settings."""

from django import template
from django.conf import settings

register = template.Library()


@register.simple_tag
def search_min_chars() -> int:
    """From how many characters on the box asks while one types."""
    return int(settings.SEARCH_MIN_CHARS)
