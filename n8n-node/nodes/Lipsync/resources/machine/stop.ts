/** Machine > Stop: stops a machine, or gives it back. A second Stop does no harm. */
import { NodeOperationError } from 'n8n-workflow';

import { eachItem, text } from '../../items';
import { accountOf } from '../../machines';
import type { Operation } from '../../operation';
import { machineIdField, readMachineId } from './machineId';

export const stop: Operation = {
	option: {
		name: 'Stop',
		value: 'stop',
		description: 'Stop a machine, or give it back',
		action: 'Stop rented machine',
	},
	fields: [
		machineIdField,
		{
			displayName: 'And Then',
			name: 'stopMode',
			type: 'options',
			options: [
				{
					name: 'Keep Its Disk',
					value: 'stop',
					description: 'The provider bills the disk and not the GPU; the next start is quick',
				},
				{
					name: 'Give It Back',
					value: 'destroy',
					description: 'Delete the machine with everything on it; nothing costs any more',
				},
			],
			default: 'stop',
			description: 'What happens to the disk of the machine',
		},
		{
			displayName: 'Pass On Error',
			name: 'passOnError',
			type: 'boolean',
			default: true,
			description:
				'Whether to fail, after the machine is stopped, when the item comes from the error output of another node',
		},
	],
	run: async (context) =>
		await eachItem(context, async (i) => {
			const id = readMachineId(context, i);
			const mode =
				context.getNodeParameter('stopMode', i, 'stop') === 'destroy' ? 'destroy' : 'stop';
			// This request is sent even if the execution is stopped now, because the machine costs money.
			const { despiteStop, name } = await accountOf(context, i);
			await despiteStop.act(id, mode);
			const { error, message } = context.getInputData()[i].json;
			if (error && context.getNodeParameter('passOnError', i, true) === true) {
				throw new NodeOperationError(context.getNode(), text(textOf(error)), {
					description: `${text(message)} (machine ${id} is stopped)`.trim(),
					itemIndex: i,
				});
			}
			return {
				json: { machine_id: id, provider: name, stopped: true, given_back: mode === 'destroy' },
				pairedItem: { item: i },
			};
		}),
};

/** The sentence of an error. The previous node gives a text, or an object with a message. */
function textOf(error: unknown): unknown {
	return error instanceof Object && 'message' in error ? error.message : error;
}
