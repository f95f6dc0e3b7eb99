/** The field Machine ID. */
import { NodeOperationError, type IExecuteFunctions, type INodeProperties } from 'n8n-workflow';

export const machineIdField: INodeProperties = {
	displayName: 'Machine ID',
	name: 'machineId',
	type: 'string',
	required: true,
	default: '={{ $json.machine_id }}',
	placeholder: 'e.g. 12345678',
	description: 'The number or name that the provider shows, or machine_id from the output of Start',
};

export function readMachineId(context: IExecuteFunctions, itemIndex: number): string {
	const id = String(context.getNodeParameter('machineId', itemIndex, '') ?? '').trim();
	if (!/^[A-Za-z0-9_-]{1,80}$/.test(id)) {
		throw new NodeOperationError(context.getNode(), `${JSON.stringify(id)} is no machine ID`, {
			description:
				"Take machine_id from the output of Machine > Start: {{ $('Start').first().json.machine_id }}",
			itemIndex,
		});
	}
	return id;
}
