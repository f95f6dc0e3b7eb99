/** The job ID of an item, checked, so that nothing else than a job is ever asked for. */
import { NodeOperationError, type IExecuteFunctions } from 'n8n-workflow';

export function readJobId(context: IExecuteFunctions, itemIndex: number): string {
	const id = String(context.getNodeParameter('jobId', itemIndex) ?? '').trim();
	if (!/^[A-Za-z0-9_-]{1,64}$/.test(id)) {
		throw new NodeOperationError(context.getNode(), `${JSON.stringify(id)} is no job ID`, {
			description: 'Take job_id from the output of Video > Generate: {{ $json.job_id }}',
			itemIndex,
		});
	}
	return id;
}
