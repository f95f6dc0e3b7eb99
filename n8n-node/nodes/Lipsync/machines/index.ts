/** The provider that the credential of an item names. */
import { NodeOperationError, type IExecuteFunctions } from 'n8n-workflow';

import { ProviderApi } from './api';
import type { Provider } from './machine';
import { runpod } from './runpod';
import { tensordock } from './tensordock';
import { vast } from './vast';

const PROVIDERS: Record<string, { title: string; make: (api: ProviderApi) => Provider }> = {
	vast: { title: 'Vast.ai', make: vast },
	runpod: { title: 'RunPod', make: runpod },
	tensordock: { title: 'TensorDock', make: tensordock },
};

export interface Account {
	name: string;
	apiKey: string;
	provider: Provider;
	/** The same provider, for calls that are sent even after the execution was stopped. */
	despiteStop: Provider;
}

export async function accountOf(context: IExecuteFunctions, itemIndex: number): Promise<Account> {
	const credential = await context.getCredentials('lipsyncMachineApi', itemIndex);
	const name = String(credential.provider);
	const known = PROVIDERS[name] as (typeof PROVIDERS)[string] | undefined;
	if (known === undefined) {
		throw new NodeOperationError(context.getNode(), `There is no provider "${name}"`, {
			description: `Choose one of ${Object.keys(PROVIDERS).join(', ')} in the credential`,
			itemIndex,
		});
	}
	const api = new ProviderApi(context, known.title, itemIndex);
	return {
		name,
		apiKey: String(credential.apiKey),
		provider: known.make(api),
		despiteStop: known.make(api.despiteStop()),
	};
}
