from __future__ import annotations

import io
import json
import re
import uuid
import zipfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from change_events import ChangeEvent, SNSPublisher
from change_events._consumer.queue import Queue
from change_events._operations.checkup import Case
from change_events._operations.doctor import OF_A_QUEUE, doctor
from verification.harness.templates import findings, parsed

# moto warns about the resources that `Cloud` adds. An error would end its server's request.
pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse AWS")

REGION = "eu-west-1"
DIRECTORY = files("change_events") / "cloudformation"
FILES = {
    **{
        name: DIRECTORY / name
        for name in ("autoscaling.yaml", "lambda.yaml", "queue.yaml", "topic.yaml")
    },
    "task.yaml": Path(__file__).parents[2] / "examples" / "product_service" / "task.yaml",
}

DAY = 86_400


def text(file: str) -> str:
    return FILES[file].read_text(encoding="utf-8")


def template(file: str) -> dict[str, Any]:
    return parsed(text(file))


@dataclass(frozen=True)
class Stack:
    """A deployed template. `resources` has the physical ids by the logical ids."""

    name: str
    parameters: dict[str, str]
    outputs: dict[str, str]
    resources: dict[str, str]


class Cloud:
    """A moto server, and clients for it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.cloudformation = self.client("cloudformation")
        self.autoscaling = self.client("application-autoscaling")
        self.ecs = self.client("ecs")
        self.iam = self.client("iam")
        self.functions = self.client("lambda")
        self.sns = self.client("sns")
        self.sqs = self.client("sqs")

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def deploy(self, file: str, **parameters: str) -> Stack:
        name = f"change-events-{uuid.uuid4().hex[:12]}"
        self.cloudformation.create_stack(
            StackName=name,
            TemplateBody=text(file),
            Parameters=[
                {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
            ],
            Capabilities=["CAPABILITY_IAM"],
        )
        stack = self.described(name)
        for logical_id, resource in template(file)["Resources"].items():
            self.add_what_moto_leaves_out(logical_id, resource, stack)
        return stack

    def described(self, name: str) -> Stack:
        stack = self.cloudformation.describe_stacks(StackName=name)["Stacks"][0]
        assert stack["StackStatus"] == "CREATE_COMPLETE"
        resources = self.cloudformation.describe_stack_resources(StackName=name)["StackResources"]
        return Stack(
            name,
            {
                parameter["ParameterKey"]: parameter["ParameterValue"]
                for parameter in stack["Parameters"]
            },
            {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]},
            {
                each["LogicalResourceId"]: each["PhysicalResourceId"]
                for each in resources
                if "LogicalResourceId" in each
            },
        )

    def add_what_moto_leaves_out(
        self, logical_id: str, resource: dict[str, Any], stack: Stack
    ) -> None:
        # moto's CloudFormation has no queue policies, no subscriptions and no Application Auto
        # Scaling: it warns and leaves them out. This makes them from the template's own properties,
        # with the calls that CloudFormation makes. SNS refuses unknown attributes, and boto3
        # unknown parameters.
        if resource["Type"] == "AWS::SQS::QueuePolicy":
            properties = self.resolved(resource["Properties"], stack)
            for url in properties["Queues"]:
                self.sqs.set_queue_attributes(
                    QueueUrl=url, Attributes={"Policy": json.dumps(properties["PolicyDocument"])}
                )
        elif resource["Type"] == "AWS::SNS::Subscription":
            properties = self.resolved(resource["Properties"], stack)
            arguments = {
                name: properties.pop(name) for name in ("TopicArn", "Protocol", "Endpoint")
            }
            attributes = {
                key: value if isinstance(value, str) else json.dumps(value)
                for key, value in properties.items()
            }
            stack.resources[logical_id] = self.sns.subscribe(**arguments, Attributes=attributes)[
                "SubscriptionArn"
            ]
        elif resource["Type"] == "AWS::ApplicationAutoScaling::ScalableTarget":
            properties = self.resolved(resource["Properties"], stack)
            for name in ("MinCapacity", "MaxCapacity"):
                properties[name] = int(properties[name])
            self.autoscaling.register_scalable_target(**properties)
        elif resource["Type"] == "AWS::ApplicationAutoScaling::ScalingPolicy":
            properties = self.resolved(resource["Properties"], stack)
            target = template("autoscaling.yaml")["Resources"][properties.pop("ScalingTargetId")]
            for name in ("ServiceNamespace", "ResourceId", "ScalableDimension"):
                properties[name] = self.resolved(target["Properties"][name], stack)
            policy = properties["TargetTrackingScalingPolicyConfiguration"]
            policy["TargetValue"] = float(policy["TargetValue"])
            self.autoscaling.put_scaling_policy(**properties)

    def resolved(self, node: Any, stack: Stack) -> Any:  # noqa: PLR0911  # one for each function
        match node:
            case {"Ref": name}:
                known = stack.parameters | stack.resources
                return known.get(name, name)  # what moto leaves out has no physical id
            case {"Fn::GetAtt": [name, "Name"]}:
                return stack.resources[name].rpartition("/")[2]
            case {"Fn::Select": [number, {"Fn::Split": [mark, whole]}]}:
                return self.resolved(whole, stack).split(mark)[int(number)]
            case {"Fn::Sub": text}:
                return re.sub(
                    r"\$\{(\w+)(?:\.(\w+))?\}",
                    lambda found: self.resolved(
                        {"Fn::GetAtt": [found[1], found[2]]} if found[2] else {"Ref": found[1]},
                        stack,
                    ),
                    text,
                )
            case {"Fn::GetAtt": [name, "Arn"]}:
                return self.queue(stack.resources[name])["QueueArn"]
            case dict():
                return {key: self.resolved(value, stack) for key, value in node.items()}
            case list():
                return [self.resolved(value, stack) for value in node]
        return node

    def queue(self, url: str) -> dict[str, str]:
        return self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]

    def subscription(self, stack: Stack) -> dict[str, str]:
        return self.sns.get_subscription_attributes(
            SubscriptionArn=stack.resources["Subscription"]
        )["Attributes"]

    def broadcast(self, owner: Stack, id: str) -> None:
        SNSPublisher(owner.outputs["TopicArn"], client=self.sns).publish([ChangeEvent(id)])

    def bodies(self, url: str) -> list[str]:
        """Receive once; the received messages stay visible."""
        messages = self.sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0
        ).get("Messages", [])
        return [message["Body"] for message in messages]


@pytest.fixture(scope="module")
def cloud(aws):
    return Cloud(aws)


@pytest.fixture(scope="module")
def owner(cloud):
    return cloud.deploy("topic.yaml")


@pytest.fixture(scope="module")
def task(cloud, owner):
    """The example's task, which publishes."""
    return cloud.deploy(
        "task.yaml",
        Image="example.com/products:1",
        TopicArn=owner.outputs["TopicArn"],
        PublisherPolicyArn=owner.outputs["PublisherPolicyArn"],
    )


@pytest.fixture(scope="module")
def consumer(cloud, owner):
    """
    A stack with the defaults, to look at. Its queue gets what all tests broadcast, so a test that
    receives deploys its own stack.
    """
    return cloud.deploy("queue.yaml", TopicArn=owner.outputs["TopicArn"])


# The files


@pytest.mark.parametrize("file", FILES)
def test_cfn_lint_finds_nothing(file):
    assert findings(text(file), REGION) == []


def test_cfn_lint_finds_the_wrong_redrive_policy_key_of_the_article():
    body = text("queue.yaml").replace("deadLetterTargetArn", "DeadLetterTargetArn")

    assert any("DeadLetterTargetArn" in finding for finding in findings(body, REGION))


@pytest.mark.parametrize("file", ["queue.yaml", "topic.yaml"])
def test_two_stacks_of_a_template_live_in_one_account(cloud, owner, file):
    parameters = {"queue.yaml": {"TopicArn": owner.outputs["TopicArn"]}}.get(file, {})

    one, other = (cloud.deploy(file, **parameters) for _ in range(2))

    assert set(one.outputs.values()).isdisjoint(other.outputs.values())
    assert set(one.resources.values()).isdisjoint(other.resources.values())


# The owning side


def test_the_topic_is_encrypted_by_the_key_that_every_publisher_of_the_account_may_use(
    cloud, owner
):
    attributes = cloud.sns.get_topic_attributes(TopicArn=owner.outputs["TopicArn"])["Attributes"]

    assert attributes["KmsMasterKeyId"] == "alias/aws/sns"


def test_the_topic_is_exported_under_the_stacks_name(cloud, owner):
    exports = {
        export["Name"]: export["Value"] for export in cloud.cloudformation.list_exports()["Exports"]
    }

    assert exports[f"{owner.name}-TopicArn"] == owner.outputs["TopicArn"]


def statements(cloud: Cloud, policy_arn: str) -> list[dict[str, Any]]:
    version = cloud.iam.get_policy(PolicyArn=policy_arn)["Policy"]["DefaultVersionId"]
    answer = cloud.iam.get_policy_version(PolicyArn=policy_arn, VersionId=version)
    return answer["PolicyVersion"]["Document"]["Statement"]


def test_the_policy_lets_publish_to_the_topic_and_nothing_else(cloud, owner):
    assert statements(cloud, owner.outputs["PublisherPolicyArn"]) == [
        {"Effect": "Allow", "Action": "sns:Publish", "Resource": owner.outputs["TopicArn"]}
    ]


def test_the_examples_task_has_that_policy_and_no_other():
    # moto's CloudFormation attaches no managed policies to a role
    properties = template("task.yaml")["Resources"]["TaskRole"]["Properties"]

    assert properties["ManagedPolicyArns"] == [{"Ref": "PublisherPolicyArn"}]
    assert "Policies" not in properties


@pytest.mark.parametrize("role", ["TaskRole", "ExecutionRole"])
def test_only_ecs_tasks_may_assume_the_roles(cloud, task, role):
    trust = cloud.iam.get_role(RoleName=task.resources[role])["Role"]["AssumeRolePolicyDocument"]

    assert trust["Statement"] == [
        {
            "Effect": "Allow",
            "Principal": {"Service": "ecs-tasks.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ]


def test_the_container_finds_the_topic_in_its_environment(cloud, owner, task):
    definition = cloud.ecs.describe_task_definition(
        taskDefinition=task.resources["TaskDefinition"]
    )["taskDefinition"]

    (container,) = definition["containerDefinitions"]
    assert container["image"] == "example.com/products:1"
    assert container["environment"] == [
        {"name": "PRODUCT_EVENTS_TOPIC_ARN", "value": owner.outputs["TopicArn"]}
    ]


@pytest.mark.parametrize("file", ["autoscaling.yaml", "task.yaml"])
def test_the_task_runs_on_fargate_with_its_roles(file):
    # moto's CloudFormation reads only containers, volumes and memory of a task definition
    properties = template(file)["Resources"]["TaskDefinition"]["Properties"]

    assert properties["RequiresCompatibilities"] == ["FARGATE"]
    assert properties["NetworkMode"] == "awsvpc"
    assert (properties["Cpu"], properties["Memory"]) == ("256", "512")
    assert properties["TaskRoleArn"] == {"Fn::GetAtt": ["TaskRole", "Arn"]}
    assert properties["ExecutionRoleArn"] == {"Fn::GetAtt": ["ExecutionRole", "Arn"]}


# The consuming side


def test_an_event_arrives_unchanged(cloud, owner):
    consumer = cloud.deploy("queue.yaml", TopicArn=owner.outputs["TopicArn"])

    cloud.broadcast(owner, "abc")

    assert cloud.bodies(consumer.outputs["QueueUrl"]) == ['{"id": "abc"}']


def test_an_event_arrives_in_an_envelope_if_asked_for(cloud, owner):
    consumer = cloud.deploy(
        "queue.yaml", TopicArn=owner.outputs["TopicArn"], RawMessageDelivery="false"
    )

    cloud.broadcast(owner, "abc")

    (body,) = cloud.bodies(consumer.outputs["QueueUrl"])
    envelope = json.loads(body)
    assert envelope["TopicArn"] == owner.outputs["TopicArn"]
    assert envelope["Message"] == '{"id": "abc"}'


def test_an_event_waits_for_the_queues_delay(cloud, owner):
    consumer = cloud.deploy("queue.yaml", TopicArn=owner.outputs["TopicArn"], DelaySeconds="7")

    cloud.broadcast(owner, "abc")

    queue = cloud.queue(consumer.outputs["QueueUrl"])
    assert (queue["DelaySeconds"], queue["ApproximateNumberOfMessagesDelayed"]) == ("7", "1")


def test_an_event_received_too_often_moves_to_the_dead_letter_queue(cloud, owner):
    consumer = cloud.deploy("queue.yaml", TopicArn=owner.outputs["TopicArn"], MaxReceiveCount="2")
    cloud.broadcast(owner, "abc")

    received = [cloud.bodies(consumer.outputs["QueueUrl"]) for _ in range(3)]

    assert received == [['{"id": "abc"}'], ['{"id": "abc"}'], []]
    assert cloud.bodies(consumer.outputs["DeadLetterQueueUrl"]) == ['{"id": "abc"}']


def test_by_default_the_queue_has_no_delay_and_ten_receives(cloud, consumer):
    queue = cloud.queue(consumer.outputs["QueueUrl"])
    dead_letter_queue = cloud.queue(consumer.outputs["DeadLetterQueueUrl"])

    assert queue["QueueArn"] == consumer.outputs["QueueArn"]
    assert (queue["DelaySeconds"], queue["VisibilityTimeout"]) == ("0", "60")
    assert json.loads(queue["RedrivePolicy"]) == {
        "deadLetterTargetArn": dead_letter_queue["QueueArn"],
        "maxReceiveCount": 10,
    }


def test_dead_letter_queues_retain_messages_for_longer_than_the_queue(cloud, consumer):
    retention = {
        output: int(cloud.queue(url)["MessageRetentionPeriod"])
        for output, url in consumer.outputs.items()
        if output.endswith("QueueUrl")
    }

    assert retention == {
        "QueueUrl": 4 * DAY,
        "DeadLetterQueueUrl": 14 * DAY,
        "SubscriptionDeadLetterQueueUrl": 14 * DAY,
    }


@pytest.mark.parametrize("output", ["QueueUrl", "SubscriptionDeadLetterQueueUrl"])
def test_only_the_topic_may_send_and_only_to_that_queue(cloud, owner, consumer, output):
    queue = cloud.queue(consumer.outputs[output])

    assert json.loads(queue["Policy"])["Statement"] == [
        {
            "Effect": "Allow",
            "Principal": {"Service": "sns.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": queue["QueueArn"],
            "Condition": {"ArnEquals": {"aws:SourceArn": owner.outputs["TopicArn"]}},
        }
    ]


def test_no_topic_may_send_to_the_dead_letter_queue(cloud, consumer):
    assert "Policy" not in cloud.queue(consumer.outputs["DeadLetterQueueUrl"])


@pytest.mark.parametrize("queue", ["Queue", "DeadLetterQueue", "SubscriptionDeadLetterQueue"])
def test_the_queues_are_encrypted_in_a_way_that_lets_sns_deliver(queue):
    # for moto, every queue is encrypted
    properties = template("queue.yaml")["Resources"][queue]["Properties"]

    assert properties["SqsManagedSseEnabled"] is True
    assert "KmsMasterKeyId" not in properties


def test_the_subscription_is_raw_and_has_a_dead_letter_queue_of_its_own(cloud, owner, consumer):
    subscription = cloud.subscription(consumer)
    dead_letter_queue = cloud.queue(consumer.outputs["SubscriptionDeadLetterQueueUrl"])

    assert subscription["TopicArn"] == owner.outputs["TopicArn"]
    assert (subscription["Protocol"], subscription["Endpoint"]) == (
        "sqs",
        consumer.outputs["QueueArn"],
    )
    assert subscription["RawMessageDelivery"] == "true"
    assert json.loads(subscription["RedrivePolicy"]) == {
        "deadLetterTargetArn": dead_letter_queue["QueueArn"]
    }
    assert (
        consumer.outputs["SubscriptionDeadLetterQueueUrl"] != consumer.outputs["DeadLetterQueueUrl"]
    )


def test_the_subscription_waits_for_the_policies_that_let_it_deliver():
    # moto does not enforce queue policies
    assert set(template("queue.yaml")["Resources"]["Subscription"]["DependsOn"]) == {
        "QueuePolicy",
        "SubscriptionDeadLetterQueuePolicy",
    }


def test_the_worker_may_do_with_its_queue_what_it_needs_and_nothing_else(cloud, owner):
    consumer = cloud.deploy("queue.yaml", TopicArn=owner.outputs["TopicArn"])

    (statement,) = statements(cloud, consumer.outputs["WorkerPolicyArn"])

    assert (statement["Effect"], statement["Resource"]) == ("Allow", consumer.outputs["QueueArn"])
    assert sorted(statement["Action"]) == sorted(
        actions_of_a_worker(cloud, consumer.outputs["QueueUrl"])
    )


def test_an_operator_may_do_with_all_queues_what_a_worker_does_and_ask_for_the_rest(cloud, owner):
    consumer = cloud.deploy("queue.yaml", TopicArn=owner.outputs["TopicArn"])

    queues, topic, topics, functions = statements(cloud, consumer.outputs["OperatorPolicyArn"])

    urls = [url for output, url in consumer.outputs.items() if output.endswith("QueueUrl")]
    assert sorted(queues["Resource"]) == sorted(cloud.queue(url)["QueueArn"] for url in urls)
    assert len(urls) == 3
    assert sorted(queues["Action"]) == sorted(
        actions_of_a_worker(cloud, consumer.outputs["QueueUrl"])
    )
    assert topic["Resource"] == owner.outputs["TopicArn"]
    assert [*topic["Action"], *topics["Action"], *functions["Action"]] == [
        "sns:ListSubscriptionsByTopic",
        "sns:GetSubscriptionAttributes",
        "sns:ListSubscriptions",
        "lambda:ListEventSourceMappings",
        "lambda:GetFunctionConfiguration",
    ]


def test_the_outputs_name_the_queues_for_alarms(consumer):
    for name in ("QueueName", "DeadLetterQueueName", "SubscriptionDeadLetterQueueName"):
        url = consumer.outputs[name.replace("Name", "Url")]
        assert url.endswith("/" + consumer.outputs[name])


def actions_of_a_worker(cloud: Cloud, url: str) -> set[str]:
    """
    Make all calls that a worker makes to its queue, and return the IAM actions that they need.

    A batch call needs the action of the single call.
    """
    calls = []
    client = cloud.client("sqs")
    client.meta.events.register("before-call.sqs", lambda model, **_: calls.append(model.name))
    cloud.sqs.send_message(QueueUrl=url, MessageBody='{"id": "abc"}')
    queue = Queue(url, client)
    queue.open(wait=20)
    queue.delayed()
    (message,) = queue.receive(most=10, wait=0, visibility=60)
    queue.change_visibility([(message.receipt_handle, 30)])
    queue.delete([message.receipt_handle])
    return {f"sqs:{call.removesuffix('Batch')}" for call in calls}


def test_the_doctor_finds_nothing_wrong_with_the_stacks(cloud, owner):
    consumer = cloud.deploy("queue.yaml", TopicArn=owner.outputs["TopicArn"])

    checks = doctor(Case(queue_url=consumer.outputs["QueueUrl"]))

    assert {check.name: check.status for check in checks if check.name in OF_A_QUEUE} == (
        dict.fromkeys(OF_A_QUEUE, "ok") | {"Lambda timeout": "skipped"}
    )


# Values that CloudFormation refuses, and moto does not


def test_events_are_kept_for_less_time_than_letters():
    parameter = template("queue.yaml")["Parameters"]["MessageRetentionPeriod"]
    letters = template("queue.yaml")["Resources"]["DeadLetterQueue"]["Properties"]

    assert parameter["Default"] == 4 * DAY
    assert parameter["MaxValue"] == 13 * DAY < letters["MessageRetentionPeriod"] == 14 * DAY


def test_the_delay_is_one_that_sqs_accepts():
    parameter = template("queue.yaml")["Parameters"]["DelaySeconds"]

    assert (parameter["MinValue"], parameter["MaxValue"]) == (0, 900)


def test_raw_delivery_is_true_or_false():
    assert template("queue.yaml")["Parameters"]["RawMessageDelivery"]["AllowedValues"] == [
        "true",
        "false",
    ]


# Lambda


@pytest.fixture(scope="module")
def function(cloud) -> dict[str, str]:
    """A function that nobody invokes: its name, and its role's."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("cache.py", "def handler(event, context): ...")
    names = {"FunctionName": uuid.uuid4().hex, "FunctionRoleName": uuid.uuid4().hex}
    role = cloud.iam.create_role(RoleName=names["FunctionRoleName"], AssumeRolePolicyDocument="{}")
    cloud.functions.create_function(
        FunctionName=names["FunctionName"],
        Runtime="python3.13",
        Role=role["Role"]["Arn"],
        Handler="cache.handler",
        Code={"ZipFile": archive.getvalue()},
    )
    return names


def test_the_mapping_reports_batch_item_failures(cloud, consumer, function):
    cloud.deploy("lambda.yaml", QueueArn=consumer.outputs["QueueArn"], **function)

    (mapping,) = cloud.functions.list_event_source_mappings(FunctionName=function["FunctionName"])[
        "EventSourceMappings"
    ]

    assert mapping["EventSourceArn"] == consumer.outputs["QueueArn"]
    assert mapping["BatchSize"] == 10
    # moto's CloudFormation reads only the batch size and the window of a mapping
    properties = template("lambda.yaml")["Resources"]["Mapping"]["Properties"]
    assert properties["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert properties["ScalingConfig"] == {"MaximumConcurrency": {"Ref": "MaximumConcurrency"}}
    assert template("lambda.yaml")["Resources"]["Mapping"]["DependsOn"] == "Policy"


def test_the_function_may_do_with_the_queue_what_a_worker_does():
    # moto returns a policy of a role that CloudFormation made as Python's repr
    (statement,) = template("lambda.yaml")["Resources"]["Policy"]["Properties"]["PolicyDocument"][
        "Statement"
    ]
    (worker,) = template("queue.yaml")["Resources"]["WorkerPolicy"]["Properties"]["PolicyDocument"][
        "Statement"
    ]

    assert sorted(statement["Action"]) == sorted(worker["Action"])
    assert statement["Resource"] == {"Ref": "QueueArn"}


# Scaling


@pytest.fixture(scope="module")
def fleet(cloud, consumer):
    """Workers on ECS."""
    cloud.ecs.create_cluster(clusterName="cluster")
    return cloud.deploy(
        "autoscaling.yaml",
        Image="example.com/cache:1",
        QueueUrl=consumer.outputs["QueueUrl"],
        WorkerPolicyArn=consumer.outputs["WorkerPolicyArn"],
        Table="products",
        Cluster="cluster",
        Subnets="subnet-1,subnet-2",
        SecurityGroups="sg-1",
    )


def test_the_service_runs_workers_of_the_queue(cloud, consumer, fleet):
    (service,) = cloud.ecs.describe_services(
        cluster="cluster", services=[fleet.outputs["ServiceName"]]
    )["services"]
    definition = cloud.ecs.describe_task_definition(taskDefinition=service["taskDefinition"])[
        "taskDefinition"
    ]
    (container,) = definition["containerDefinitions"]

    assert container["command"] == ["change-events", "worker", "cache:worker"]
    assert container["environment"] == [
        {"name": "PRODUCT_EVENTS_QUEUE_URL", "value": consumer.outputs["QueueUrl"]},
        {"name": "PRODUCTS_TABLE", "value": "products"},
    ]


def test_the_workers_have_their_queues_policy_and_may_use_their_table(cloud, fleet):
    # moto's CloudFormation attaches no managed policies to a role, and returns its own as Python's
    # repr
    properties = template("autoscaling.yaml")["Resources"]["TaskRole"]["Properties"]
    ((condition, policy, nothing),) = [each["Fn::If"] for each in properties["Policies"]]
    (statement,) = policy["PolicyDocument"]["Statement"]

    assert properties["ManagedPolicyArns"] == [{"Ref": "WorkerPolicyArn"}]
    assert (condition, nothing) == ("HasTable", {"Ref": "AWS::NoValue"})
    actions = ("BatchGetItem", "GetItem", "UpdateItem", "Scan")
    assert statement["Action"] == [f"dynamodb:{action}" for action in actions]
    role = fleet.resources["TaskRole"]
    assert cloud.iam.list_role_policies(RoleName=role)["PolicyNames"] == ["cache"]


def test_the_number_of_tasks_follows_the_messages_that_wait_for_each(cloud, consumer, fleet):
    name = fleet.outputs["ServiceName"]
    (target,) = cloud.autoscaling.describe_scalable_targets(ServiceNamespace="ecs")[
        "ScalableTargets"
    ]
    (policy,) = cloud.autoscaling.describe_scaling_policies(ServiceNamespace="ecs")[
        "ScalingPolicies"
    ]

    assert target["ResourceId"] == policy["ResourceId"] == f"service/cluster/{name}"
    assert (target["MinCapacity"], target["MaxCapacity"]) == (1, 4)
    tracking = policy["TargetTrackingScalingPolicyConfiguration"]
    backlog, tasks, quotient = tracking["CustomizedMetricSpecification"]["Metrics"]
    assert tracking["TargetValue"] == 1000
    assert quotient["Expression"] == f"{backlog['Id']} / {tasks['Id']}"
    assert [each["ReturnData"] for each in (backlog, tasks, quotient)] == [False, False, True]
    assert backlog["MetricStat"]["Metric"] == {
        "Namespace": "AWS/SQS",
        "MetricName": "ApproximateNumberOfMessagesVisible",
        "Dimensions": [
            {"Name": "QueueName", "Value": consumer.outputs["QueueArn"].rpartition(":")[2]}
        ],
    }
    assert tasks["MetricStat"]["Metric"] == {
        "Namespace": "ECS/ContainerInsights",
        "MetricName": "RunningTaskCount",
        "Dimensions": [
            {"Name": "ClusterName", "Value": "cluster"},
            {"Name": "ServiceName", "Value": name},
        ],
    }


def test_keda_does_not_count_messages_that_workers_hold():
    # KEDA's documentation: "AWS SQS Queue", "Scaling Deployments", "Authentication"
    text = (files("change_events") / "kubernetes" / "keda.yaml").read_text(encoding="utf-8")
    scaled, authentication = yaml.safe_load_all(text)
    spec = scaled["spec"]
    (trigger,) = spec["triggers"]

    for each, kind in (scaled, "ScaledObject"), (authentication, "TriggerAuthentication"):
        assert each.keys() == {"apiVersion", "kind", "metadata", "spec"}
        assert (each["apiVersion"], each["kind"]) == ("keda.sh/v1alpha1", kind)
    assert spec.keys() == {"scaleTargetRef", "minReplicaCount", "maxReplicaCount", "triggers"}
    assert spec["minReplicaCount"] == 1
    assert trigger.keys() == {"type", "authenticationRef", "metadata"}
    assert trigger["type"] == "aws-sqs-queue"
    assert trigger["authenticationRef"] == {"name": authentication["metadata"]["name"]}
    assert trigger["metadata"].keys() == {
        "queueURL",
        "awsRegion",
        "queueLength",
        "scaleOnInFlight",
    }
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    assert trigger["metadata"]["scaleOnInFlight"] == "false"
    assert authentication["spec"] == {"podIdentity": {"provider": "aws"}}
