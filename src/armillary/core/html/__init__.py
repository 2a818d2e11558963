"""HTML without a template engine: a small vocabulary of parts, and pages that need nothing but themselves.

    from armillary.core.html import card, context, estimates_table, figure, page, section

    page("Two features", [section("Feature 7", card("prices", context(tokens, activations)), figure(spec, title="density"))])

A plain string is text and is escaped; only `Html` is taken as markup. A page holds its own style and script and asks no host for
anything, which its Content-Security-Policy makes the browser enforce.
"""

from armillary.core.html.page import Section as Section
from armillary.core.html.page import fragment as fragment
from armillary.core.html.page import page as page
from armillary.core.html.page import section as section
from armillary.core.html.parts import Content as Content
from armillary.core.html.parts import Html as Html
from armillary.core.html.parts import card as card
from armillary.core.html.parts import cards as cards
from armillary.core.html.parts import context as context
from armillary.core.html.parts import details as details
from armillary.core.html.parts import facts as facts
from armillary.core.html.parts import figure as figure
from armillary.core.html.parts import join as join
from armillary.core.html.parts import link as link
from armillary.core.html.parts import listing as listing
from armillary.core.html.parts import markup as markup
from armillary.core.html.parts import paragraph as paragraph
from armillary.core.html.parts import tag as tag
from armillary.core.html.parts import token_list as token_list
from armillary.core.html.parts import warning as warning
from armillary.core.html.tables import Line as Line
from armillary.core.html.tables import data_table as data_table
from armillary.core.html.tables import estimates_table as estimates_table
from armillary.core.html.tables import grouped_table as grouped_table
