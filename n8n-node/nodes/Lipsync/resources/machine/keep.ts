/** Machine > Keep Running: the machine stays on for some minutes although nothing runs there. */
import { NodeOperationError } from 'n8n-workflow';

import { eachItem, numberBetween } from '../../items';
import { accountOf } from '../../machines';
import { keepMachine } from '../../machines/idleStop';
import type { Operation } from '../../operation';
import { machineIdField, readMachineId } from './machineId';
import { readServerToken, serverTokenField } from './serverToken';

/** As `lipsync cloud keep --minutes` has it. */
const MINUTES = 30;

export const keep: Operation = {
	option: {
		name: 'Keep Running',
		value: 'keep',
		description: 'Let a machine run for some more minutes although it has no work',
		action: 'Keep rented machine running',
	},
	fields: [
		machineIdField,
		serverTokenField,
		{
			displayName: 'Minutes',
			name: 'keepMinutes',
			type: 'number',
			typeOptions: { minValue: 0, maxValue: 720 },
			default: MINUTES,
			description:
				'How long the machine stays on from now, whether it has work or not. 0 ends an earlier request. The provider charges for these minutes.',
		},
	],
	run: async (context) =>
		await eachItem(context, async (i) => {
			const minutes = numberBetween(
				context,
				'Minutes',
				context.getNodeParameter('keepMinutes', i, MINUTES),
				[0, 720],
				i,
			);
			const { provider, name } = await accountOf(context, i);
			const id = readMachineId(context, i);
			const machine = await provider.state(id);
			if (machine.state !== 'running' || machine.url === '') {
				throw new NodeOperationError(
					context.getNode(),
					`Machine ${id} at ${provider.title} does not run, so it cannot be kept: it is ${machine.state}`,
					{ description: 'Start the machine with Machine > Start', itemIndex: i },
				);
			}
			const token = readServerToken(context, i);
			const countdown = await keepMachine(context, machine.url, token, minutes, i);
			return {
				json: { machine_id: id, provider: name, ...countdown },
				pairedItem: { item: i },
			};
		}),
};
