"""`change-events template`: prints infrastructure."""

from __future__ import annotations

from importlib.resources import files

import click

FILES = {
    "topic": "cloudformation/topic.yaml",
    "queue": "cloudformation/queue.yaml",
    "lambda": "cloudformation/lambda.yaml",
    "autoscaling": "cloudformation/autoscaling.yaml",
    "keda": "kubernetes/keda.yaml",
}
"""The templates, and where the package has them."""


@click.command()
@click.argument("name", type=click.Choice(list(FILES)))
def command(name: str) -> None:
    """
    Print infrastructure: CloudFormation, or a manifest for Kubernetes.

    \b
      change-events template queue > queue.yaml
      aws cloudformation deploy --template-file queue.yaml --stack-name products-cache \\
          --capabilities CAPABILITY_IAM --parameter-overrides TopicArn=arn:aws:sns:...

    \b
      topic        a topic, and a policy for what publishes to it
      queue        a queue that is subscribed to it, dead-letter queues, a policy for the worker
      lambda       what joins a Lambda function to the queue
      autoscaling  workers on ECS, as many as the queue's backlog needs
      keda         the same on Kubernetes: a ScaledObject for KEDA
    """
    click.echo(files("change_events").joinpath(FILES[name]).read_text(encoding="utf-8"), nl=False)
