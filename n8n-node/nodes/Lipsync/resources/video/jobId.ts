/** The field Job, and the check of a job ID. An ID becomes part of a path, so only letters, digits, _ and - pass. */
import { NodeOperationError, type IExecuteFunctions, type INodeProperties } from 'n8n-workflow';

import { VERSION_1, VERSION_2 } from '../../operation';

export const jobIdFields: INodeProperties[] = [
	{
		displayName: 'Job ID',
		name: 'jobId',
		type: 'string',
		required: true,
		default: '={{ $json.job_id }}',
		description: 'The job_id from the output of Generate',
		displayOptions: { show: { ...VERSION_1 } },
	},
	{
		displayName: 'Job',
		name: 'jobId',
		type: 'resourceLocator',
		required: true,
		default: { mode: 'id', value: '={{ $json.job_id }}' },
		description: 'The job of the video: job_id from the output of Generate or Get Many',
		displayOptions: { show: { ...VERSION_2 } },
		modes: [
			{
				displayName: 'From List',
				name: 'list',
				type: 'list',
				placeholder: 'Choose a job...',
				typeOptions: { searchListMethod: 'searchJobs', searchable: true },
			},
			{
				displayName: 'By ID',
				name: 'id',
				type: 'string',
				placeholder: 'e.g. {{ $json.job_id }}',
			},
		],
	},
];

export function readJobId(context: IExecuteFunctions, itemIndex: number): string {
	const id = locatorValue(context.getNodeParameter('jobId', itemIndex, ''));
	if (!/^[A-Za-z0-9_-]{1,64}$/.test(id)) {
		throw new NodeOperationError(context.getNode(), `${JSON.stringify(id)} is no job ID`, {
			description: 'Take job_id from the output of Video > Generate: {{ $json.job_id }}',
			itemIndex,
		});
	}
	return id;
}

/** The value of a resource locator (a field with a list and an ID mode), or of version 1's plain text field. */
export function locatorValue(value: unknown): string {
	const inner =
		typeof value === 'object' && value !== null ? (value as { value?: unknown }).value : value;
	return String(inner ?? '').trim();
}
