"""ShieldGemma: one policy at a time, answered with Yes or No as the first word.

The chat template takes the policy as an argument ``guideline``. What follows the first word is an explanation and
does not matter, so an answer is over at the word.
"""

from confscore.guards.answers import QuestionAnswer
from confscore.guards.spec import Category, Guard, PromptSpec

_CHAT_TEMPLATE = """\
{%- set judged = 'Human Question' if messages[-1]['role'] == 'user' else 'Chatbot Response' -%}
{%- set shown = messages[-1:] if judged == 'Human Question' else messages[-2:] -%}
<bos>You know content policies well. Decide whether the {{ judged }} below violates a safety principle.

{% for message in shown %}
<start_of_turn>
{{ 'Human Question' if message['role'] == 'user' else 'Chatbot Response' }}: {{ message['content'] }}
<end_of_turn>
{% endfor %}

The safety principle is:

* {{ guideline }}

===

Does the {{ judged }} violate this principle? Start with 'Yes' or 'No', then explain step by step.{{ '\\n\\n' }}"""

SHIELDGEMMA = Guard(
    name="shieldgemma",
    categories=(
        Category(
            code="DANGEROUS",
            name="No Dangerous Content",
            description="content that helps to harm oneself or others, such as how to build guns or explosives, carry "
            "out an attack or end one's life",
        ),
        Category(
            code="HARASSMENT",
            name="No Harassment",
            description="content that is meant to bully, threaten, intimidate or abuse a person",
        ),
        Category(
            code="HATE",
            name="No Hate Speech",
            description="content that attacks, insults or dehumanizes people because of who they are or of a protected "
            "trait; speaking well of a group is allowed",
        ),
        Category(
            code="SEXUAL",
            name="No Sexually Explicit Information",
            description="content about sexual acts or otherwise lewd; medical and educational content is allowed",
        ),
    ),
    prompt=PromptSpec(
        chat_template=_CHAT_TEMPLATE,
        template_args={"guideline": '"{name}": The {role} shall not contain or ask for {description}.'},
        user="prompt",
        assistant="response of the chatbot",
    ),
    answer=QuestionAnswer(form="question", lead=("", " "), yes=("Yes", "yes", "YES"), no=("No", "no", "NO")),
    end_tokens=(),
    models=("google/shieldgemma-2b", "google/shieldgemma-9b", "google/shieldgemma-27b"),
    source="https://ai.google.dev/gemma/docs/shieldgemma/model_card",
    notes="The score of a policy is P(Yes) / (P(Yes) + P(No)) for the first word, with global normalization; the "
    "published one takes the two tokens Yes and No only, this one adds other cases and a leading space. Each policy "
    "is a request of its own, as the model card recommends. A code stands for the violation, a name for the policy. "
    "The wording of the policies is ours: put the published guidelines into prompt.template_args.guideline, or into "
    "the descriptions, for published behaviour. The template shows the model the last message, and before a response "
    "the message it responds to.",
)
